"""Implement `tmde doctor`."""
