"""Running a benchmark: planning, asking, scoring and measuring."""
