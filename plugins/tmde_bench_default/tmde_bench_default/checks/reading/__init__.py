"""Read what a text says: its characters, its numbers, its statements and denials."""
