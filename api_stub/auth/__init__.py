"""API keys, and the check of the key that a request presents."""
