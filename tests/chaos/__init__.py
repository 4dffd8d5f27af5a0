"""Chaos: real processes and servers, killed and paused at random moments, and every promise checked afterwards."""
