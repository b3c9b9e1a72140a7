"""What a caller leaves open when it names no model: asked once, with all that can be chosen (ASK-01 to ASK-09)."""

from __future__ import annotations

from collections.abc import Iterator

from tune_mcp.calibration.project import Project
from tune_mcp.config.stages import StageTable
from tune_mcp.discover.aliases import ALL, aliases, base_of
from tune_mcp.errors import Code, Refusal


def only_model(project: Project) -> str | None:
    """The model that needs no question, because there is no other (ASK-07)."""
    names = project.places.model_names()
    return names[0] if len(names) == 1 else None


def unnamed(project: Project) -> Refusal:
    """The answer to a call without a model, from a client that cannot ask: the same question, as text."""
    names = project.places.model_names()
    return Refusal(
        Code.INVALID_ARGUMENT,
        ("ASK-01", "ASK-02"),
        f"no model is named; there are {', '.join(names) or 'none'}",
        f"ask the user this once, then call start_run with the answer:\n{question(project)}",
        {"argument": "model", "models": [*names]},
    )


def question(project: Project) -> str:
    """Everything that can be chosen, model by model, one line a test file."""
    lines = ["Which model and which tests shall be calibrated, and how often each? Stages, with commas between them:"]
    for name in project.places.model_names():
        try:
            table = project.places.stages(name)
        except Refusal:
            lines.append(f"{name}: not discovered yet")
            continue
        lines += [f"{name}:", *(f"  {line}" for line in choices(table))]
    return "\n".join(lines)


def choices(table: StageTable) -> Iterator[str]:
    """ALL, then a line a base with its file and groups, then what else can be said (ASK-03, ASK-04)."""
    yield f"{ALL}: every stage ({len(table)})"
    files: dict[str, tuple[str, list[str]]] = {}
    for stage in table.values():
        groups = files.setdefault(base_of(stage), (stage.test, []))[1]
        if stage.group not in groups:
            groups.append(stage.group)
    for base, (test, groups) in files.items():
        yield f"{base}: {test} ({', '.join(groups)})"
    groups = [alias for alias in aliases(table) if alias.startswith("@")]
    yield "of all tests: " + ", ".join(groups)
    yield "with commas, for example: " + ", ".join([*files][:1] + groups[-1:])
