"""The training process of the Axolotl backend. It runs in an environment of its own."""
