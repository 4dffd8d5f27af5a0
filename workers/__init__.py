"""The processes: a dispatcher enqueues RQ jobs, and workers run them to drain partitions and verify read models."""
