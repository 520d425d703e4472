"""`tmde plugins check`: the contracts, run against an installed plugin in a process of its own.

- `findings`: what is told of each thing. The command line reads it; pytest is not needed for that.
- `targets`: which things a name means.
- `installed`: the contracts as pytest collects them, one class for each thing.
- `__main__`: the process.
"""
