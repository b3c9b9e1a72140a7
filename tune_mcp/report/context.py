"""The one line under each stage's heading that says what was measured, on what (rules CTX-01 to CTX-07).

Constants are read from the syntax tree of the stage's test file, then of its threshold file, through imports; a name
that is not there, or is no plain number, is ``?`` and never guessed or copied from another stage (CTX-06). The
concurrency is that of the launch: pytest's arguments win over what the test files say (``launch_values``).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tune_mcp.config.stages import Stage
from tune_mcp.discover.python_files import PythonFiles
from tune_mcp.errors import Json, Refusal
from tune_mcp.files import read_object
from tune_mcp.report.launch_values import LaunchValues
from tune_mcp.run_dir import RunDir
from tune_mcp.session.plan import LaunchSettings

UNKNOWN = "?"


@dataclass(frozen=True)
class Hardware:
    """What precheck.json says about the machine's GPUs: a phrase for context lines and the full summary."""

    phrase: str
    summary: str


def hardware(run: RunDir) -> Hardware:
    """GPU count and model from the run's precheck.json alone (CTX-03); ``CPU`` where it lists no GPU."""
    facts = read_object(run.precheck)
    gpus, summary = facts.get("gpus"), facts.get("gpu_summary")
    reported = summary if isinstance(summary, str) and summary else ""
    if isinstance(gpus, list) and gpus:
        names = [_name(gpu) for gpu in gpus]
        phrase = " + ".join(f"{count}× {name}" for name, count in Counter(names).items())
        return Hardware(phrase, reported or phrase)
    if reported.lower().startswith("no gpu") or (isinstance(gpus, list) and not reported):
        return Hardware("CPU", reported or "no GPU (CPU)")
    return Hardware(f"{UNKNOWN}× {UNKNOWN}", reported or UNKNOWN)


@dataclass
class ContextReader:
    """Resolves context lines for the stages of one run; each source file is read once."""

    repo_root: Path
    phrase: str
    repeats: int
    settings: LaunchSettings = field(default_factory=LaunchSettings)

    def __post_init__(self) -> None:
        self._files = PythonFiles(self.repo_root)
        self._launched = LaunchValues(self.repo_root, self._files, self.settings)

    def line(self, stage: Stage) -> str:
        """``— 2× NVIDIA H20, 2000 samples, max_tokens=32, concurrency=8, 5 runs`` (CTX-04, CTX-05).

        A test that counts no samples has none to say.
        """
        runs = f"{self.repeats} run" if self.repeats == 1 else f"{self.repeats} runs"
        if stage.is_docs:
            return f"— {self.phrase}, docs smoke, {runs}"
        samples, others = self._constants(stage)
        counted = [f"{samples} samples"] if samples else []
        return ", ".join([f"— {self.phrase}", *counted, *others, runs])

    def _constants(self, stage: Stage) -> tuple[str, list[str]]:
        samples: str | None = None
        named: dict[str, str] = {}
        for name in stage.context_vars:
            value = self._value(stage, name)
            if "SAMPLES" in name:
                samples = value if samples in (None, UNKNOWN) else samples
            elif named.get(_label(name), UNKNOWN) == UNKNOWN:
                named[_label(name)] = value
        if samples is None:
            samples = "" if stage.sample_counts == "one" else UNKNOWN
            if stage.expected_samples is not None:
                samples = str(stage.expected_samples)
        concurrency = self._launched.concurrency(stage, named.get("concurrency"))
        if concurrency is not None:
            named["concurrency"] = concurrency
        order = sorted(named, key=lambda label: {"max_tokens": 0, "concurrency": 1}.get(label, 2))
        return samples, [f"{label}={named[label]}" for label in order]

    def _value(self, stage: Stage, name: str) -> str:
        """The constant's number, followed through imports; ``?`` where it is not found (CTX-06)."""
        for file in dict.fromkeys((stage.test, stage.threshold_path)):
            try:
                module = self._files.constants(file)
                value = self._launched.number(stage, module, name) if module else None
            except Refusal:
                continue
            if value is not None:
                return str(value)
        return UNKNOWN


def _name(gpu: Json) -> str:
    """Older runs listed names, newer ones objects with a name."""
    found = gpu.get("name") if isinstance(gpu, dict) else gpu
    return found if isinstance(found, str) and found else UNKNOWN


def _label(name: str) -> str:
    if "MAX_TOKENS" in name or "MAX_NEW_TOKENS" in name:
        return "max_tokens"
    return "concurrency" if "CONCURRENCY" in name else name.strip("_").lower()
