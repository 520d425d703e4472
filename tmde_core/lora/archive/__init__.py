"""Exports adapters as archives and imports them, with all checks of foreign archives."""
