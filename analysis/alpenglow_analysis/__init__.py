"""Reading measurements: where the time of every rank went, and what a run should have reached."""
