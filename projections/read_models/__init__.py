"""The read models, one file each, and the registry of their projections."""
