"""Tests: unit (no I/O), integration (real servers), faults (the same, broken on purpose), e2e (what a person types)."""

import pytest

pytest.register_assert_rewrite("tests.support.harness", "tests.machine", "tests.chaos.promises")
