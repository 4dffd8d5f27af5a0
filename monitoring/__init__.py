"""Prometheus metrics, with the alert rules and the dashboard that use them."""
