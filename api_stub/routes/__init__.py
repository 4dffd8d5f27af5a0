"""The reads: one file each, with its query, handler and response model. The registry lists them."""
