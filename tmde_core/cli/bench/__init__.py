"""`tmde bench`."""
