"""`projector doctor`: checks for problems that endanger a guarantee, each with its remedy.

To add a check, write a function in the module of its subject, and add it to `registry.py`, to
docs/reference/doctor.md, and to the tests.
"""
