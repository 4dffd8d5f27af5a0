"""What commits together: event log, read models, dead letters, checkpoint."""
