"""Asking several adapters the same question, side by side."""
