"""The read API: two reads over HTTP, each answered by one statement that goes through keys."""
