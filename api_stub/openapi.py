"""The OpenAPI 3.1 document, generated from the registry of reads, the response models and the errors."""

from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api_stub.errors import ErrorResponse
from api_stub.routes.read import OpenApiOperation
from api_stub.routes.registry import READS

VERSION = "1.0.0"

_READ_ERRORS = {
    "400": "A parameter or header is invalid (`VALIDATION_ERROR`), or an organisation key does not say which project"
    " (`MISSING_PROJECT_ID`).",
    "401": "No valid key: `UNAUTHORIZED`, `API_KEY_REVOKED` or `API_KEY_EXPIRED`.",
    "403": "The key may not do this: `SECRET_KEY_REQUIRED`, `FORBIDDEN` or `WRONG_PROJECT`.",
    "404": "No such project in the key's tenant (`NOT_FOUND`).",
    "405": "The path answers GET and HEAD only (`METHOD_NOT_ALLOWED`).",
    "429": "The tenant has too many large responses in progress (`TOO_MANY_REQUESTS`).",
    "503": "The database cannot be reached, or a rebuild is pending (`UNAVAILABLE`).",
}


@cache
def document() -> dict[str, Any]:
    """Return the document; its paths are the reads of the registry and the operations endpoints."""
    models: list[type[BaseModel]] = [*(read.openapi.response for read in READS), ErrorResponse]
    refs, definitions = models_json_schema(
        [(model, "serialization") for model in models], ref_template="#/components/schemas/{model}"
    )
    error = refs[ErrorResponse, "serialization"]
    reads = {
        read.path: {"get": _read(read.openapi, refs[read.openapi.response, "serialization"], error)} for read in READS
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "SigSentry project reads",
            "version": VERSION,
            "description": "A project's stats and its monitoring activity, from read models that follow the events.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": {
            **reads,
            "/healthz": {"get": _json_endpoint("health", "The process is alive.")},
            "/readyz": {"get": _health_check("readiness", "This process can answer reads.")},
            "/healthz/projector": {"get": _health_check("projectorHealth", "Events reach the read models.")},
            "/metrics": {"get": _metrics()},
            "/openapi.json": {"get": _json_endpoint("openapi", "This document.")},
        },
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _read(operation: OpenApiOperation, response: dict[str, Any], error: dict[str, Any]) -> dict[str, Any]:
    return {
        "operationId": operation.operation_id,
        "summary": operation.summary,
        "security": [{"key": []}],
        "parameters": list(operation.parameters),
        "responses": {"200": _json(operation.response_description, response), **_errors(error)},
    }


def _errors(schema: dict[str, Any]) -> dict[str, Any]:
    responses = {status: _json(description, schema) for status, description in _READ_ERRORS.items()}
    responses["401"]["headers"] = {"WWW-Authenticate": {"schema": {"const": "Bearer"}}}
    responses["405"]["headers"] = {"Allow": {"schema": {"type": "string"}}}
    for status in ("429", "503"):
        responses[status]["headers"] = {"Retry-After": {"schema": {"type": "string"}}}
    return responses


def _json_endpoint(operation_id: str, summary: str) -> dict[str, Any]:
    responses = {"200": _json("Success.", {"type": "object"})}
    return {"operationId": operation_id, "summary": summary, "responses": responses}


def _health_check(operation_id: str, summary: str) -> dict[str, Any]:
    endpoint = _json_endpoint(operation_id, summary)
    endpoint["responses"]["503"] = _json("The check fails; `problems` says why.", {"type": "object"})
    return endpoint


def _metrics() -> dict[str, Any]:
    text = {"text/plain": {"schema": {"type": "string"}}}
    response = {
        "description": "Every metric that can be read now; `projector_up` shows which servers could be read.",
        "content": text,
    }
    return {
        "operationId": "metrics",
        "summary": "Metrics in the text format of Prometheus.",
        "responses": {"200": response},
    }


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}
