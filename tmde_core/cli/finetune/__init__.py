"""Implement `tmde finetune` and `tmde worker`."""
