"""The `projector` command: composes the other packages, imported by none of them."""
