"""Measurements, never assertions: `make bench`. docs/reference/benchmarks.md says what each row means."""
