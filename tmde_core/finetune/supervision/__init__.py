"""Starts, watches and ends training processes."""
