"""The OpenAPI 3.1 document of what exists, made from the models of the answers and the table of errors."""

from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api_stub.errors import ErrorAnswer
from api_stub.routes.read import OpenApi
from api_stub.routes.registry import READS

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


@cache
def document() -> dict[str, Any]:
    """Return the document; its paths are the reads of the registry and the operations endpoints."""
    models: list[type[BaseModel]] = [*(read.openapi.response for read in READS), ErrorAnswer]
    refs, definitions = models_json_schema(
        [(model, "serialization") for model in models], ref_template="#/components/schemas/{model}"
    )
    error = refs[ErrorAnswer, "serialization"]
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


def _read(openapi: OpenApi, answer: dict[str, Any], error: dict[str, Any]) -> dict[str, Any]:
    return {
        "operationId": openapi.operation_id,
        "summary": openapi.summary,
        "security": [{"key": []}],
        "parameters": list(openapi.parameters),
        "responses": {"200": _json(openapi.description, answer), **_errors(error)},
    }


def _errors(schema: dict[str, Any]) -> dict[str, Any]:
    answers = {status: _json(description, schema) for status, description in _READ_ERRORS.items()}
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
