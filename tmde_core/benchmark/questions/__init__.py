"""Provides the questions of a benchmark: suites, the user's own questions, and question files."""
