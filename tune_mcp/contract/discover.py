"""What ``discover`` answers."""

from __future__ import annotations

from collections.abc import Iterable

from tune_mcp.contract.coverage import CoverageCounts
from tune_mcp.contract.reply import Reply
from tune_mcp.words import number_of


class DiscoverReply(Reply):
    """What ``discover`` found, what changed against the table on disk, and what config still has to say."""

    model: str
    path: str
    written: bool
    stages: tuple[str, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    needs_config: tuple[str, ...]
    collisions: tuple[str, ...]
    conflicts: tuple[str, ...]
    unrecognised: tuple[str, ...]
    problems: tuple[str, ...]
    suggestions: dict[str, str]
    without: tuple[str, ...] = ()
    coverage: CoverageCounts | None = None

    def lines(self) -> Iterable[str]:
        """Counts first, then what needs a person."""
        state = "written" if self.written else "unchanged on disk"
        yield f"model {self.model}: {number_of(len(self.stages), 'stage')}; {self.path} {state}"
        for title, names in (("added", self.added), ("removed", self.removed), ("changed", self.changed)):
            if names:
                yield f"{title}: {', '.join(names)}"
        for title, lines in (
            ("NEEDS_CONFIG", self.needs_config),
            ("collision", self.collisions),
            ("config differs from the test", self.conflicts),
            ("no threshold was found, so it is not run", self.without),
            ("not calibrated", self.unrecognised),
            ("note", self.problems),
        ):
            for line in lines:
                yield f"{title}: {line}"
        if self.coverage:
            yield from self.coverage.lines()
        for file, suggestion in self.suggestions.items():
            yield f"block for config.yaml about {file} (merge it into keys that are there already):"
            yield suggestion.rstrip()
