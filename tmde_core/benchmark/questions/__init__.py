"""The questions of a benchmark: suites, one's own, and files."""
