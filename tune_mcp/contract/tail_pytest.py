"""What ``tail_pytest`` answers."""

from __future__ import annotations

from collections.abc import Iterable

from tune_mcp.contract.reply import Reply

MAX_LINES = 500


class TailReply(Reply):
    """A page of one log. ``cursor`` continues after it; ``active`` says whether that pytest still runs."""

    run_id: str
    test: str | None
    repeat: int | None
    path: str | None
    active: bool
    log_lines: tuple[str, ...]
    left_bytes: int
    cursor: str | None

    def lines(self) -> Iterable[str]:
        """The page, then one line that says where it is from and what is left."""
        yield from self.log_lines
        if self.path is None:
            yield "[no pytest log yet]"
            return
        yield (
            f"[{self.test} run {self.repeat}, {'running' if self.active else 'ended'}: {len(self.log_lines)} lines, "
            f"{self.left_bytes} bytes after them; cursor={self.cursor}; {self.path}]"
        )
