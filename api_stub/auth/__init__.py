"""API keys, and the check of a request's key."""
