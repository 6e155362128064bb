"""Benchmarks and held-out perplexity of a released model, for its card."""
