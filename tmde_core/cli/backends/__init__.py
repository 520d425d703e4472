"""The commands of `tmde backends`."""
