"""The `projector` command. It composes the other packages; none of them imports it."""
