"""Implement `tmde bench`."""
