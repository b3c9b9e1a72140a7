"""tune-mcp: calibrate CI thresholds of speech and omni models, with the rules enforced by a server."""

__version__ = "0.1.0"
