"""The event log, the read models that are folded from it, and the transaction that updates both."""
