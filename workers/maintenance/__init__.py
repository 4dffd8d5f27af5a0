"""Work beside the drain: rebuild, verify, replay."""
