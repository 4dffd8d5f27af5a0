"""Lookups: SQL statements that look up many keys at once, shared by concurrent requests."""
