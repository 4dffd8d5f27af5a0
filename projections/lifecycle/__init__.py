"""Work on stored data: rebuild, verify, dead-letter administration."""
