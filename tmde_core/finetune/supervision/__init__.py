"""Starting, watching and ending training processes."""
