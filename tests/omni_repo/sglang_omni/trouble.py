"""What a test wants to go wrong: a file in the folder ``trouble`` beside HOME; the first process that meets it takes it away."""

import os
from pathlib import Path


def met(name):
    """Whether it is this process that meets the trouble ``name``."""
    asked = Path(os.environ["HOME"]).parent / "trouble" / name
    try:
        asked.rename(asked.with_suffix(".met"))
    except FileNotFoundError:
        return False
    return True
