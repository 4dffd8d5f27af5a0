"""The parts of `projector up`: startup, supervisor, watchdog, embedded Valkey, and the demo."""
