"""Adapters on disk: the store, their files, leases and what reading all bytes has found."""
