"""The scheduler layer: machines, geometry, batch scripts, job states, and a laptop's stand-ins."""
