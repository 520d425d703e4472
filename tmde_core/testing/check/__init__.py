"""Implement `tmde plugins check`: run the contracts against an installed plugin in a separate process.

- `findings`: the messages of the process. The command line reads them without pytest.
- `targets`: the things that a name stands for.
- `installed`: the contracts as pytest collects them, one class for each thing.
- `__main__`: the process.
"""
