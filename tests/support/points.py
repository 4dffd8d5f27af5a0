"""Named points of a drain in this process: what a test does to whoever reaches one, in that thread alone.

The points are those of `tests.support.dying_drain`; here a death is an exception that nobody catches.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import pytest

from tests.support.dying_drain import POINTS

_here = threading.local()


class ProcessDiedError(BaseException):
    """Thrown at a point in place of SIGKILL: no handler of errors gets it, open transactions are rolled back."""


def install(patch: pytest.MonkeyPatch) -> None:
    """Make every point tell when it is reached."""
    for point, (owner, name, when) in POINTS.items():
        patch.setattr(owner, name, _telling(point, getattr(owner, name), when))


@contextmanager
def at_point(point: str, on_call: int, act: Callable[[], None]) -> Iterator[None]:
    """Within this block let this thread `act` when it reaches `point` for the `on_call`-th time."""
    calls = 0

    def reached(here: str) -> None:
        nonlocal calls
        calls += here == point
        if here == point and calls == on_call:
            act()

    _here.reached = reached
    try:
        yield
    finally:
        del _here.reached


def _telling(point: str, wrapped: Callable[..., Any], when: str) -> Callable[..., Any]:
    def tell() -> None:
        reached = getattr(_here, "reached", None)
        if reached is not None:
            reached(point)

    @wraps(wrapped)
    def call(*arguments: Any, **options: Any) -> Any:
        if when == "before":
            tell()
        result = wrapped(*arguments, **options)
        if when == "after":
            tell()
        return result

    return call
