"""A release against the checkpoint that it came from."""
