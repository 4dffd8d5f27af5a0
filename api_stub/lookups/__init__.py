"""Lookups: keyed statements that answer many requests at once."""
