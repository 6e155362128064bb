"""Our tasks in the files of lm-evaluation-harness; the data's place is added when they are loaded."""
