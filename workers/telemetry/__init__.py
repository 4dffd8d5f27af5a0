"""Records of drains in Redis, for operators: progress, throughput and batch metrics."""
