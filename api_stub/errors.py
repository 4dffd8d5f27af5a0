"""Every error that the API answers with: status, code, message (docs/reference/api.md#errors)."""

from dataclasses import dataclass, field

from pydantic import BaseModel


class ErrorDetail(BaseModel):
    """What is wrong with one parameter."""

    parameter: str
    message: str


class ErrorBody(BaseModel):
    """The `error` of an error answer."""

    code: str
    message: str
    details: list[ErrorDetail] | None = None


class ErrorAnswer(BaseModel):
    """The body of every answer that is not a success."""

    success: bool = False
    error: ErrorBody


@dataclass
class ApiError(Exception):
    """An answer that is not a success; raised where it is found, rendered in one place."""

    status: int
    code: str
    message: str
    details: list[ErrorDetail] | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def body(self) -> bytes:
        """Return the JSON of the answer."""
        answer = ErrorAnswer(error=ErrorBody(code=self.code, message=self.message, details=self.details))
        return answer.model_dump_json(exclude_none=True).encode()


_CHALLENGE = {"WWW-Authenticate": "Bearer"}


def not_found() -> ApiError:
    """Return the answer for an unknown path."""
    return ApiError(404, "NOT_FOUND", "No such path; see /openapi.json.")


def no_such_project() -> ApiError:
    """Return the answer for a project that the key's tenant does not have, whether or not another tenant does."""
    return ApiError(404, "NOT_FOUND", "No such project in your tenant.")


def method_not_allowed(allow: str) -> ApiError:
    """Return the answer for a known path with a method it does not have."""
    return ApiError(405, "METHOD_NOT_ALLOWED", f"This path answers {allow} only.", headers={"Allow": allow})


def unauthorized(message: str, code: str = "UNAUTHORIZED") -> ApiError:
    """Return the answer for a key that is missing, malformed, unknown, revoked or expired."""
    return ApiError(401, code, message, headers=dict(_CHALLENGE))


def forbidden(code: str, message: str) -> ApiError:
    """Return the answer for a good key that may not do this."""
    return ApiError(403, code, message)


def invalid(parameter: str, message: str) -> ApiError:
    """Return the answer for a parameter or header whose value is not allowed."""
    return ApiError(
        400, "VALIDATION_ERROR", f"{parameter}: {message}", [ErrorDetail(parameter=parameter, message=message)]
    )


def missing_project_id() -> ApiError:
    """Return the answer for an organisation key that does not say which project."""
    message = "An organisation key needs the header X-Project-Id here."
    return ApiError(400, "MISSING_PROJECT_ID", message, [ErrorDetail(parameter="X-Project-Id", message=message)])


def unavailable() -> ApiError:
    """Return the answer for a check or a read that cannot be made now."""
    return ApiError(503, "UNAVAILABLE", "The store cannot be reached; try again.", headers={"Retry-After": "1"})


def not_filled() -> ApiError:
    """Return the answer while a rebuild has not given the tenant all that a read needs."""
    message = "This read is still being filled from your tenant's events; try again later."
    return ApiError(503, "UNAVAILABLE", message, headers={"Retry-After": "30"})


def not_implemented(message: str) -> ApiError:
    """Return the answer for a part of the API that is not implemented (docs/reference/api.md#x-min-position)."""
    return ApiError(501, "NOT_IMPLEMENTED", message)
