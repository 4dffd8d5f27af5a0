"""The regular expressions of the event format, each with the words that describe it in messages."""

import re

UUID_PATTERN = r"^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"
LOWER_UUID_PATTERN = UUID_PATTERN.replace("A-F", "")
TENANT_PATTERN = r"^[A-Za-z0-9._:-]{1,64}$"
TYPE_PATTERN = r"^[A-Za-z0-9_.-]{1,100}\.v[1-9][0-9]{0,8}$"
SLUG_PATTERN = r"^[a-z0-9-]{1,100}$"
NO_CONTROL_PATTERN = r"^[^\x00-\x1f\x7f-\x9f]*$"
# RFC 3986: unreserved, reserved and percent-encoded characters, at most one fragment.
URI_REFERENCE_PATTERN = (
    r"^([A-Za-z0-9\-._~:/?\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})*(#([A-Za-z0-9\-._~:/?@!$&'()*+,;=]|%[0-9A-Fa-f]{2})*)?$"
)
# datetime.fromisoformat accepts more than RFC 3339 does, so the pattern spells out the ranges.
_HOUR_MINUTE = "([01][0-9]|2[0-3]):[0-5][0-9]"
TIME_PATTERN = (
    rf"^[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}[Tt]{_HOUR_MINUTE}:([0-5][0-9]|60)(\.[0-9]+)?([Zz]|[+-]{_HOUR_MINUTE})$"
)

ALLOWED = {
    UUID_PATTERN: "a UUID with hyphens, such as 6f1c89bb-3b50-4c4a-9c5f-2f6f6a0b7c11",
    TENANT_PATTERN: "1 to 64 of A-Z, a-z, 0-9, '.', '_', ':' and '-'",
    TYPE_PATTERN: "a name and a version, such as analysis.created.v1",
    SLUG_PATTERN: "1 to 100 of a-z, 0-9 and '-'",
    NO_CONTROL_PATTERN: "text without control characters",
    URI_REFERENCE_PATTERN: "a URI reference (RFC 3986), such as /watchdog",
    TIME_PATTERN: "RFC 3339 with seconds and an offset, such as 2026-04-25T14:30:12Z",
}
"""What each pattern allows. Messages show these words and never the pattern."""

_COMPILED = {pattern: re.compile(pattern.strip("^$")) for pattern in ALLOWED}


def matches(pattern: str, value: object) -> bool:
    """Return whether a value is text that matches one of these patterns."""
    return isinstance(value, str) and _COMPILED[pattern].fullmatch(value) is not None
