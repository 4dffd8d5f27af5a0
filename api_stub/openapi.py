"""The OpenAPI 3.1 document of what exists, made from the models of the answers and the table of errors."""

from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api_stub.answers import ActivityAnswer, StatsAnswer
from api_stub.checks import HOURS_DEFAULT, HOURS_MAX
from api_stub.errors import ErrorAnswer
from event_stream.envelope import UUID_PATTERN

VERSION = "1.0.0"

_READ_ERRORS = {
    "400": "A parameter or header is invalid (`VALIDATION_ERROR`), or an organisation key does not say which project"
    " (`MISSING_PROJECT_ID`).",
    "401": "No valid key: `UNAUTHORIZED`, `API_KEY_REVOKED` or `API_KEY_EXPIRED`.",
    "403": "The key may not do this: `SECRET_KEY_REQUIRED`, `FORBIDDEN` or `WRONG_PROJECT`.",
    "404": "No such project in the key's tenant (`NOT_FOUND`).",
    "405": "The path answers GET and HEAD only (`METHOD_NOT_ALLOWED`).",
    "503": "The store cannot be reached (`UNAVAILABLE`).",
}
_PROJECT_HEADER = {
    "name": "X-Project-Id",
    "in": "header",
    "required": False,
    "description": "The project. With an organisation key activity needs it; elsewhere it must be the one meant.",
    "schema": {"type": "string", "format": "uuid", "pattern": UUID_PATTERN},
    "example": "6f1c89bb-3b50-4c4a-9c5f-2f6f6a0b7c11",
}


@cache
def document() -> dict[str, Any]:
    """Return the document; its paths are the routes of `app.py` that are built."""
    models: dict[str, type[BaseModel]] = {
        "StatsAnswer": StatsAnswer,
        "ActivityAnswer": ActivityAnswer,
        "ErrorAnswer": ErrorAnswer,
    }
    refs, definitions = models_json_schema(
        [(model, "serialization") for model in models.values()], ref_template="#/components/schemas/{model}"
    )
    schema = {name: refs[model, "serialization"] for name, model in models.items()}
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
            "/v1/config/projects/{slug}/stats": {"get": _stats(schema)},
            "/v1/config/monitoring/activity": {"get": _activity(schema)},
            "/healthz": {"get": _plain("health", "The process is alive.", failing=False)},
            "/readyz": {"get": _plain("readiness", "This process can answer reads.", failing=True)},
            "/healthz/projector": {"get": _plain("projectorHealth", "Events reach the read models.", failing=True)},
            "/metrics": {"get": _metrics()},
            "/openapi.json": {"get": _plain("openapi", "This document.", failing=False)},
        },
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _stats(schema: dict[str, Any]) -> dict[str, Any]:
    slug = {
        "name": "slug",
        "in": "path",
        "required": True,
        "description": "The project's slug.",
        "schema": {"type": "string", "pattern": "^[a-z0-9-]{1,100}$"},
        "example": "checkout-api",
    }
    return {
        "operationId": "getProjectStats",
        "summary": "Rollup counts and the 30-day trend of one project.",
        "security": [{"key": []}],
        "parameters": [slug, _PROJECT_HEADER],
        "responses": {"200": _json("The stats.", schema["StatsAnswer"]), **_errors(schema)},
    }


def _activity(schema: dict[str, Any]) -> dict[str, Any]:
    hours = {
        "name": "hours",
        "in": "query",
        "required": False,
        "description": "How far back to look.",
        "schema": {"type": "integer", "minimum": 1, "maximum": HOURS_MAX, "default": HOURS_DEFAULT},
    }
    return {
        "operationId": "getMonitoringActivity",
        "summary": "The newest watchdog evaluations of one project, newest first, at most 100.",
        "security": [{"key": []}],
        "parameters": [hours, _PROJECT_HEADER],
        "responses": {"200": _json("The entries.", schema["ActivityAnswer"]), **_errors(schema)},
    }


def _errors(schema: dict[str, Any]) -> dict[str, Any]:
    answers = {status: _json(description, schema["ErrorAnswer"]) for status, description in _READ_ERRORS.items()}
    answers["401"]["headers"] = {"WWW-Authenticate": {"schema": {"const": "Bearer"}}}
    answers["405"]["headers"] = {"Allow": {"schema": {"type": "string"}}}
    answers["503"]["headers"] = {"Retry-After": {"schema": {"type": "string"}}}
    return answers


def _plain(operation_id: str, summary: str, *, failing: bool) -> dict[str, Any]:
    responses = {"200": _json("Yes.", {"type": "object"})}
    if failing:
        responses["503"] = _json("No: `problems` names each check that fails.", {"type": "object"})
    return {"operationId": operation_id, "summary": summary, "responses": responses}


def _metrics() -> dict[str, Any]:
    text = {"text/plain": {"schema": {"type": "string"}}}
    answer = {"description": "Every metric that can be read now; `projector_up` says what cannot.", "content": text}
    summary = "What Prometheus scrapes, in its text format."
    return {"operationId": "metrics", "summary": summary, "responses": {"200": answer}}


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}
