"""Looking at a dataset before a run."""
