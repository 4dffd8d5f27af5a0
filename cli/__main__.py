"""`python -m cli` is `projector`."""

from cli.main import run

run()
