"""A caller's regular expression over log lines, in a process with a deadline.

Python's engine can run for years on thirty characters, and holds every other thread of the server meanwhile (POL-11).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

DEADLINE_S = 5.0
_PROGRAM = """
import json, re, sys
pattern, lines = json.load(sys.stdin)
search = re.compile(pattern).search
json.dump([search(line) is not None for line in lines], sys.stdout)
"""


def matching(pattern: str, lines: Sequence[str]) -> list[bool]:
    """Whether each line has a match. Raises ``TimeoutError`` when that is not known after ``DEADLINE_S``."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _PROGRAM],
            input=json.dumps([pattern, [*lines]]),
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=True,
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"takes longer than {DEADLINE_S:g} s on this log") from error
    return json.loads(done.stdout)
