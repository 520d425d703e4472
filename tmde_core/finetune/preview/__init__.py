"""Previews a dataset before a run."""
