"""The HTTP API: reads of the read models, API keys and operations endpoints."""
