"""What drains record in Redis for operators: progress, rates, batch metrics."""
