"""Inference on maps."""
