"""The reads: one file each, with its query, its handler and its response model. The registry lists them."""
