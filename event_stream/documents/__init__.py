"""Documents that describe the events: JSON Schema and AsyncAPI."""
