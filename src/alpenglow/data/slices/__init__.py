"""The seven slices: each module reads its raw form and yields Documents."""
