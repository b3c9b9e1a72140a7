"""Some disk space kept back, so that a run on a full disk can still say why it ended."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

_BYTES = 256 * 1024


@contextmanager
def space_kept(path: Path) -> Generator[None]:
    """A file of zeros meanwhile; its blocks are free again for whoever handles what ended it. Raises ``OSError``."""
    try:
        path.write_bytes(bytes(_BYTES))
        yield
    finally:
        path.unlink(missing_ok=True)
