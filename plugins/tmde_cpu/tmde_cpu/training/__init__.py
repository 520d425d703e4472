"""The parts of the CPU trainer: examples, packing, attention, checkpoints. Imported by the worker process only."""
