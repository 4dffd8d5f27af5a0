"""The rows, one file for each thing that is measured."""
