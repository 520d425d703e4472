"""`tmde debate`."""
