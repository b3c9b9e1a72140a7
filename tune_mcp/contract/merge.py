"""What ``merge`` answers."""

from __future__ import annotations

from collections.abc import Iterable

from tune_mcp.config.stages import Frozen
from tune_mcp.contract.reply import Reply


class MergedSource(Frozen):
    """One partition: its run, the host that measured it, and its stages."""

    run_id: str
    host: str
    stages: tuple[str, ...]


class MergeReply(Reply):
    """The run directory that holds all partitions; the partitions themselves are as they were."""

    run_id: str
    run_dir: str
    commit: str
    repeats: int
    fingerprint: str
    sources: tuple[MergedSource, ...]
    strict_ready: str

    def lines(self) -> Iterable[str]:
        """The new run, then its sources."""
        yield f"STRICT {self.strict_ready} stages · {self.run_id}, {self.repeats} repeats each, commit {self.commit}"
        yield f"run directory: {self.run_dir}"
        for one in self.sources:
            yield f"from {one.run_id} on {one.host}: {', '.join(one.stages)}"
        yield f"one fingerprint: {self.fingerprint[:12]}; every artifact was copied byte for byte and audited again"
