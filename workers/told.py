"""What machines are told of a member of `status --json`: its unit and its meaning (docs/reference/status.md)."""

from typing import NamedTuple


class Told(NamedTuple):
    """The unit of a member, empty where it has none, and what it means."""

    unit: str
    means: str
