"""The routes of adapters and their archives."""
