"""Stores adapters on disk: the store, the manifests, the leases and the results of reading all files."""
