"""`tmde lora`."""
