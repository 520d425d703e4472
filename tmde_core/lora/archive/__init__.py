"""Adapters as archives: export, import and everything that checks a foreign archive."""
