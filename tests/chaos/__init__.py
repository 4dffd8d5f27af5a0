"""Chaos runs: processes and servers are killed and paused at random moments, then every guarantee is checked."""
