"""The commands, one file each. They parse arguments and print results."""
