"""The worker of the CPU training backend."""
