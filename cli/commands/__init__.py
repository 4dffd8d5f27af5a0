"""The commands, one file each: they parse arguments and render results."""
