"""The output of larger commands: the status screen, progress, and the reports of rebuilds and verifications."""
