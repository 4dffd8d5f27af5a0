"""The Redis streams that carry events: positions, entries, reading, appending and the backlog limit."""
