"""What Prometheus scrapes, with the alert rules and the dashboard that read it. The `cli` package puts it together."""
