"""`tmde doctor`."""
