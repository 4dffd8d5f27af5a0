"""The drain: reads the entries after a checkpoint, decodes them and applies them in batches."""
