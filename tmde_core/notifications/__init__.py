"""Notifies people: stores notifications, shows them under the bell, and sends them to a webhook."""
