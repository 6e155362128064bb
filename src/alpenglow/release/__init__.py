"""What leaves the machine: Hugging Face folders and their cards."""
