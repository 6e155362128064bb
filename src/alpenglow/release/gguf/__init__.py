"""Releases for llama.cpp and MLC LLM."""
