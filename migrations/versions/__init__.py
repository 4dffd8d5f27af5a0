"""The revisions, oldest first; a revision is never changed once it is released."""
