"""The GPT-NeoX architecture: configuration, layers, pipeline stages."""
