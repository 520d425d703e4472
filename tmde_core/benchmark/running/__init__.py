"""Runs a benchmark: plans, asks, scores and measures."""
