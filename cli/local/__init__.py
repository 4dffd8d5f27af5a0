"""What `projector up` runs on one machine: embedded Valkey, supervisor, watchdog, demo."""
