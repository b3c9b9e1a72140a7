"""A block for config.yaml about a test file that it does not describe, to be copied and reviewed (MOD-06, DSC-05)."""

from __future__ import annotations

from collections.abc import Iterable

from tune_mcp.discover.infer import Inferred


def suggestion(test: str, metrics: Iterable[str], inferred: Inferred) -> str:
    """YAML to paste at the end of ``metric_sources``, indented for it. A person fills in what is blank."""
    known = inferred.layout
    lines = [f"  {test}:", f"    json_file: {_quoted(inferred.json_file)}"]
    if known:
        lines += ["    sample_counts:"]
        lines += [f"      total: {_quoted(known.sample_counts.total)}", f"      ok: {_quoted(known.sample_counts.ok)}"]
    else:
        lines += ["    sample_counts:  # fill in total and ok"]
    keys = list(dict.fromkeys(metrics))
    lines += ["    paths:" if keys else "    paths: {}"]
    lines += [f"      {key}: {_quoted(known.paths.get(key) if known else None)}" for key in keys]
    return "\n".join(lines) + "\n"


def _quoted(value: str | None) -> str:
    return f'"{value}"' if value else " # fill in"
