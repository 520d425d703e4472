"""The judges."""
