"""The soak test: an hour of traffic in 12 minutes on real processes and servers, during which nothing may grow (G8)."""
