"""``stages.yaml`` on disk: read with line numbers, written with the same bytes for the same table (rule DSC-01)."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from tune_mcp.actions import Step, call
from tune_mcp.config.stages import Stage, StageTable
from tune_mcp.config.yaml_source import Yaml, read_yaml

_HEADER = "# Written by `tune-mcp discover`. Change config.yaml or the tests and discover again; edits here are lost.\n"
_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*")
_WORDS = frozenset(("true", "false", "yes", "no", "on", "off", "null", "none", "nan", "inf", "y", "n"))


def load_stages(path: Path) -> StageTable:
    """The stages of a file in its order; keys that it lacks or leaves null have their defaults.

    Raises INVALID_CONFIG with file, line and key.
    """
    source = read_yaml(path, Step(call("discover", model=path.parent.name), ": it writes the file again"))
    table: StageTable = {}
    for key, value in source.data.items():
        filled = value
        if isinstance(value, dict):
            if "key" in value:
                source.note((key, "key"), "unknown key; the stage's key is the name of its block")
            filled = _without_nulls(value) | {"key": key}
            filled.pop("allowed_pytest_failure", None)  # tables of the older script repeat what config.yaml says
            counts = filled.get("sample_counts")
            # Counts that nobody knows may stand as a block of nulls.
            if isinstance(counts, dict) and not (counts and all(counts.values())):
                del filled["sample_counts"]
        stage = source.check(Stage, filled, (key,))
        if stage is not None:
            table[key] = stage
    if source.problems:
        raise source.refusal()
    return table


def _without_nulls(value: dict[str, Yaml]) -> dict[str, Yaml]:
    found: dict[str, Yaml] = {}
    for key, inner in value.items():
        if isinstance(inner, dict):
            found[key] = _without_nulls(inner)
        elif inner is not None:
            found[key] = inner
    return found


def dump_stages(table: StageTable) -> bytes:
    """The table as block YAML in a fixed key order; only ``last_discovered_at`` may differ between two runs."""
    stages = {key: _stage(stage) for key, stage in table.items()}
    # The Python dumper, not libyaml's: their line breaking differs, and the bytes must not depend on the machine.
    text = yaml.dump(stages, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)
    return (_HEADER + (text if table else "{}\n")).encode()


def _stage(stage: Stage) -> dict[str, object]:
    """The block of one stage: the model's own order, variables by name, and a whole scale without a decimal point."""
    block = stage.model_dump(exclude={"key", *(() if stage.observation_validity else ("observation_validity",))})
    block["extra_env"] = dict(sorted(stage.extra_env.items()))
    block["context_vars"], block["hf_model_ids"] = list(stage.context_vars), list(stage.hf_model_ids)
    for key, metric in stage.metrics.items():
        if metric.display.scale.is_integer():
            block["metrics"][key]["display"]["scale"] = int(metric.display.scale)
    return block


class _Dumper(yaml.SafeDumper):
    """Quotes every string that some YAML reader could take for something else, and indents lists."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: object) -> bool:
        return True


def _string(_: yaml.SafeDumper, text: str) -> yaml.Node:
    plain = _PLAIN.fullmatch(text) is not None and text.lower() not in _WORDS
    return yaml.ScalarNode("tag:yaml.org,2002:str", text, style=None if plain else '"')


_Dumper.add_representer(str, _string)
