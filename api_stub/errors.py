"""Every error response of the API: status, code and message (docs/reference/api.md#errors)."""

from dataclasses import dataclass, field

from pydantic import BaseModel

URL_BYTES_MAX = 8 * 1024
HEADERS_BYTES_MAX = 32 * 1024


class ErrorDetail(BaseModel):
    """What is wrong with one parameter."""

    parameter: str
    message: str


class ErrorBody(BaseModel):
    """The `error` of an error response."""

    code: str
    message: str
    details: list[ErrorDetail] | None = None


class ErrorResponse(BaseModel):
    """The body of every response that is not a success."""

    success: bool = False
    error: ErrorBody


@dataclass
class ApiError(Exception):
    """An error response. Handlers raise it, and the application sends it."""

    status: int
    code: str
    message: str
    details: list[ErrorDetail] | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def body(self) -> bytes:
        """Return the response's body as JSON."""
        response = ErrorResponse(error=ErrorBody(code=self.code, message=self.message, details=self.details))
        return response.model_dump_json(exclude_none=True).encode()


_CHALLENGE = {"WWW-Authenticate": "Bearer"}


def not_found() -> ApiError:
    """Return the error for an unknown path."""
    return ApiError(404, "NOT_FOUND", "No such path; see /openapi.json.")


def no_such_project() -> ApiError:
    """Return the error for a project that the key's tenant does not have, whether or not another tenant has it."""
    return ApiError(404, "NOT_FOUND", "No such project in your tenant.")


def method_not_allowed(allow: str) -> ApiError:
    """Return the error for a method that a path does not have."""
    return ApiError(405, "METHOD_NOT_ALLOWED", f"This path allows only {allow}.", headers={"Allow": allow})


def unauthorized(message: str, code: str = "UNAUTHORIZED") -> ApiError:
    """Return the error for a key that is missing, malformed, unknown, revoked or expired."""
    return ApiError(401, code, message, headers=dict(_CHALLENGE))


def forbidden(code: str, message: str) -> ApiError:
    """Return the error for a valid key that does not permit the request."""
    return ApiError(403, code, message)


def invalid(parameter: str, message: str) -> ApiError:
    """Return the error for an invalid parameter or header."""
    return ApiError(
        400, "VALIDATION_ERROR", f"{parameter}: {message}", [ErrorDetail(parameter=parameter, message=message)]
    )


def missing_project_id() -> ApiError:
    """Return the error for a request with an organisation key that names no project."""
    message = "With an organisation key, this path needs the header X-Project-Id."
    return ApiError(400, "MISSING_PROJECT_ID", message, [ErrorDetail(parameter="X-Project-Id", message=message)])


def request_timeout() -> ApiError:
    """Return the error for a request whose head did not arrive in time."""
    return ApiError(408, "REQUEST_TIMEOUT", "The request did not arrive in time; send it at once.")


def url_too_long() -> ApiError:
    """Return the error for a URL that is too long."""
    return ApiError(414, "URI_TOO_LONG", f"The URL has more than {URL_BYTES_MAX:,} bytes; shorten it.")


def headers_too_large() -> ApiError:
    """Return the error for headers that are too large together."""
    message = f"The headers have more than {HEADERS_BYTES_MAX:,} bytes together; send fewer or shorter ones."
    return ApiError(431, "HEADERS_TOO_LARGE", message)


def too_many_connections() -> ApiError:
    """Return the error for a request on a connection that is reserved for the health endpoints."""
    message = "All connections of this process are in use; try again."
    return ApiError(503, "UNAVAILABLE", message, headers={"Retry-After": "1"})


def too_many_requests() -> ApiError:
    """Return the error for a tenant that has too many large responses in progress."""
    message = "Your tenant has too many large responses in progress; read them faster, or try again."
    return ApiError(429, "TOO_MANY_REQUESTS", message, headers={"Retry-After": "1"})


def unavailable() -> ApiError:
    """Return the error for a request that needs the database while it cannot be reached."""
    return ApiError(503, "UNAVAILABLE", "The database cannot be reached; try again.", headers={"Retry-After": "1"})


def rebuild_pending() -> ApiError:
    """Return the error for a tenant without rows in a read model that the request needs, until it is rebuilt."""
    message = "The data is being rebuilt from your tenant's events; try again later."
    return ApiError(503, "UNAVAILABLE", message, headers={"Retry-After": "30"})


def not_implemented(message: str) -> ApiError:
    """Return the error for a part of the API that is not implemented (docs/reference/api.md#x-min-position)."""
    return ApiError(501, "NOT_IMPLEMENTED", message)


def internal_error() -> ApiError:
    """Return the error for a bug in the API."""
    return ApiError(500, "INTERNAL_ERROR", "An internal error occurred.")
