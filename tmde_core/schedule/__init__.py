"""Runs scheduled work: cron expressions, and the decision for each due time."""
