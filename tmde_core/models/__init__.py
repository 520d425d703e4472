"""Base models: one thing with several forms."""
