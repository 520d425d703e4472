"""Asks the base model and several adapters the same question, side by side."""
