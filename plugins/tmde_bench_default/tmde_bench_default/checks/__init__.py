"""Checks that decide criteria without a model."""
