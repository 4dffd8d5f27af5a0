"""The drain: reads entries after the checkpoint, decodes and applies them in batches."""
