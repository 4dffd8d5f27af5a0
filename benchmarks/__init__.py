"""The benchmarks, run by `make bench` (docs/reference/benchmarks.md)."""
