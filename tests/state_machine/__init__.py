"""A Hypothesis state machine that drives a real deployment; tests/faults/test_state_machine.py runs it."""
