"""Helpers that `./run test` and `./run shake` use around pytest."""
