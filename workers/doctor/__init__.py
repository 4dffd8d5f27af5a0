"""The checkup: what in Redis, database, settings and processes endangers the promises, each with its remedy.

A new check is one function in the module of what it looks at, one line in `registry.py`, and its row in
docs/reference/doctor.md.
"""
