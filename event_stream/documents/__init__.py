"""The published documents of the events: JSON Schema and AsyncAPI."""
