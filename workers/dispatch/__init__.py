"""The processes that enqueue and run drains: dispatcher, trimmer, RQ worker."""
