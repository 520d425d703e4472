"""Switching adapters: the audit trail, the probe and the switch."""
