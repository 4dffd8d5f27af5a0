"""When it happens: the RQ jobs that drain partitions, and the processes that ring and run them."""
