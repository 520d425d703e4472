"""The training process of the Unsloth backend. It runs in an environment of its own."""
