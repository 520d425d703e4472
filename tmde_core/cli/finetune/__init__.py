"""`tmde finetune` and `tmde worker`."""
