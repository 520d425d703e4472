"""Deciding criteria by machine."""
