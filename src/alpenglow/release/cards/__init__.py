"""Model cards and data cards, from what is recorded."""
