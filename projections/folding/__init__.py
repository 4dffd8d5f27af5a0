"""Projections: their two kinds, rollup and feed; last-writer-wins values; row checksums."""
