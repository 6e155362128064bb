"""Layouts and schedules as data, and the tensor-parallel layers."""
