"""Implement `tmde debate`."""
