"""The transaction that applies a batch, and its tables: event log, dead letters, checkpoint, projection versions."""
