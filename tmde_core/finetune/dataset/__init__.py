"""Selects the traces that a run is trained on, and those that are left out."""
