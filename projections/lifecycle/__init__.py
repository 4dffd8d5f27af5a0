"""Work on stored data beside the main path: rebuild, verify, dead-letter administration."""
