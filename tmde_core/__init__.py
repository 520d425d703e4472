"""The core of TMDE. Plugins may import only `tmde_core.sdk`; everything else in this package is private."""

__version__ = "0.1.0"

__all__ = ["__version__"]
