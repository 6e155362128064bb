"""Pretraining: the DeepSpeed engine, the step loop, checkpoints."""
