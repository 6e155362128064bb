"""Our tasks in the harness's files; the place of the data is added when they are loaded."""
