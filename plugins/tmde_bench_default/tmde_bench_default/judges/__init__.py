"""The judges of this plugin."""
