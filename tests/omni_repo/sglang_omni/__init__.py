"""The project's own package, as far as its tests need it."""

__version__ = "0.1.0"
