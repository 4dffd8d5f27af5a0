"""Planted bugs: small, plausible mistakes. For each of them a test must fail (`make mutants`)."""
