"""Measures the head of a request while it arrives, and finds its end, without parsing it."""

from api_stub import errors
from api_stub.errors import HEADERS_BYTES_MAX, URL_BYTES_MAX, ApiError

_END = b"\r\n\r\n"
_METHODS_WITHOUT_BODY = (b"GET ", b"HEAD ")
_LINE_BYTES_MAX = len(b"GET  HTTP/1.1\r\n") + URL_BYTES_MAX
HEAD_BYTES_MAX = _LINE_BYTES_MAX + HEADERS_BYTES_MAX + len(b"\r\n")


class HeadMeter:
    """The head that arrives next. `error` is set when it is too large, and `has_body` if a body may follow it."""

    __slots__ = ("_line", "_tail", "error", "has_body", "is_complete", "size")

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Begin to measure the next head."""
        self.size = 0
        self.is_complete = False
        self.has_body = False
        self.error: ApiError | None = None
        self._line = 0  # the size of the first line, once it is complete
        self._tail = b""

    def take(self, data: bytes) -> int:
        """Measure received bytes. Returns how many of them belong to this head."""
        if self.size == 0:
            self.has_body = not any(
                data.startswith(method) or method.startswith(data) for method in _METHODS_WITHOUT_BODY
            )
        end = (self._tail + data).find(_END)  # it may be split
        self.is_complete = end >= 0
        taken = end + len(_END) - len(self._tail) if self.is_complete else len(data)
        if not self._line:
            newline = data.find(b"\n", 0, taken)
            self._line = self.size + newline + 1 if newline >= 0 else 0
        self.size += taken
        self._tail = (self._tail + data)[-3:]
        if (self._line or self.size) > _LINE_BYTES_MAX:
            self.error = errors.url_too_long()
        elif self._line and self.size - self._line > HEADERS_BYTES_MAX + len(b"\r\n"):
            self.error = errors.headers_too_large()
        return taken
