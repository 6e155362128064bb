"""Checkpoints of other programs: read, imported, exported."""
