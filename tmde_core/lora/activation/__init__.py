"""Switches the active adapter: the audit trail, the probe and the switch."""
