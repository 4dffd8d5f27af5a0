"""Measurements, never assertions: `make bench`. docs/benchmarks.md says what each row means."""
