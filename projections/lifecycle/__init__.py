"""What happens to read models and dead letters afterwards: rebuild, verify, administration."""
