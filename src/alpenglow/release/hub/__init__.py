"""Series of releases, and uploads to the Hub."""
