"""Runs the whole loop: ask, practise, train, activate, ask again, compare."""
