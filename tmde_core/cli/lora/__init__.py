"""Implement `tmde lora`."""
