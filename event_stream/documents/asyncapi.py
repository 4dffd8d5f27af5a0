"""The AsyncAPI 3.0 document of the streams: which events a producer may append, and where."""

from functools import cache
from typing import Any

from event_stream.documents.json_schema import event_schema, example_event
from event_stream.events.event_types import TENANT_LEVEL, TYPES

VERSION = "1.0.0"

_ABOUT = (
    "Producers append events about tenants and their projects to Redis streams. The projector reads the streams and"
    " keeps read models, which the HTTP API serves."
)
_CHANNEL = """\
The streams of a deployment. An event of a tenant belongs to the partition crc32(utf8(tenantid)) mod P, with the CRC-32
of zlib. The key `events:partitions` holds P.

A message is one entry with the field `event`, which holds one CloudEvents 1.0 event in structured JSON. Redis entries
have no headers, so every CloudEvents attribute is a member of that JSON object. Other fields of the entry are ignored.

    XADD events:{3} * event '{"specversion": "1.0", ...}'
"""


@cache
def asyncapi_document() -> dict[str, Any]:
    """Return the document. It describes the projector, so its one operation receives events."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Projector events",
            "version": VERSION,
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/cloudevents+json",
        "servers": {
            "redis": {
                "host": "127.0.0.1:6379",
                "protocol": "redis",
                "description": "Redis 7.0 or newer, or Valkey 8 or newer: the server that `REDIS_URL` names.",
            }
        },
        "channels": {"events": _channel()},
        "operations": {
            "receiveEvents": {
                "action": "receive",
                "summary": "Apply each event to the read models once.",
                "channel": {"$ref": "#/channels/events"},
            }
        },
        "components": {
            "messages": {type_: _message(type_) for type_ in TYPES},
            "schemas": {type_: event_schema(type_) for type_ in TYPES},
        },
    }


def _channel() -> dict[str, Any]:
    return {
        "address": "events:{partition}",
        "title": "Partitions",
        "description": _CHANNEL,
        "servers": [{"$ref": "#/servers/redis"}],
        "parameters": {
            "partition": {
                "description": "The number of the partition, from 0 to P - 1, in literal braces. The braces are part"
                " of the key: they make it a hash tag of Redis Cluster.",
                "examples": ["{0}", "{7}"],
            }
        },
        "messages": {type_: {"$ref": f"#/components/messages/{type_}"} for type_ in TYPES},
    }


def _message(type_: str) -> dict[str, Any]:
    schema = event_schema(type_)
    level = "tenant" if type_ in TENANT_LEVEL else "project"
    return {
        "name": type_,
        "title": type_,
        "summary": schema["description"],
        "contentType": "application/cloudevents+json",
        "tags": [{"name": level, "description": f"Events about a {level}."}],
        "payload": {"$ref": f"#/components/schemas/{type_}"},
        "examples": [{"name": "example", "summary": schema["description"], "payload": example_event(type_)}],
    }
