"""The references that the projector is compared with (docs/reference/benchmarks.md#references)."""
