"""Measurement inside a job: which rank did what, from when to when."""
