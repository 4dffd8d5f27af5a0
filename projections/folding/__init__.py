"""What a projection is: rollups and feeds, last-writer-wins values, row checksums."""
