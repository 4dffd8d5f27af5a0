"""What facts mean: the event log, the read models folded from it, and the one transaction that moves them."""
