"""The detached supervisor, and the runner that makes one observation."""
