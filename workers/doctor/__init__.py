"""`projector doctor`: checks of everything that may endanger a guarantee, each with its remedy.

To add a check, write a function in the module of what it looks at, and add it to `registry.py`, to
docs/reference/doctor.md, and to the tests.
"""
