"""The state machine: what it does to a deployment, and what has to hold; driven by tests/faults/test_state_machine.py."""
