"""The soak: an hour of traffic, faster than real time, over real processes and servers; what must stay flat does (G8)."""
