"""The CPU training backend's worker."""
