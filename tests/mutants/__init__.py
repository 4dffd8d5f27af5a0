"""Planted bugs: small mistakes that somebody could make, each of which must turn a test red (`make mutants`)."""
