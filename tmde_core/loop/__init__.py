"""The whole loop at once: ask, practise, train, activate, ask again, compare."""
