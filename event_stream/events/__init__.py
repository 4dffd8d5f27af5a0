"""The event format: types and their data, the CloudEvents envelope, and the validation of bytes."""
