"""What the tests share: real servers, events to append, and the oracle."""
