"""TMDE's core. Plugins import `tmde_core.sdk` only; everything else in this package is private."""

__version__ = "0.1.0"

__all__ = ["__version__"]
