"""Measuring answers: questions, and the statistics that tell a difference from noise."""
