"""A block for config.yaml about a test file, to be pasted and reviewed (MOD-06, DSC-05)."""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Collection, Iterable

from tune_mcp.discover.assertions import BOUND, Gate
from tune_mcp.discover.calibrated import CalibratedFile
from tune_mcp.discover.claimants import Unclaimed
from tune_mcp.discover.places import names_in
from tune_mcp.discover.python_files import PythonFiles
from tune_mcp.discover.sources import Inferred
from tune_mcp.run_dir import RECORD_FILE

_MAY_USE = re.compile(
    r"cuda|\bgpu|nvidia|\btorch\b|\bvllm\b|sgl|tensorrt|\bjax\b|subprocess|Popen|os\.system|os\.spawn", re.IGNORECASE
)
_HARMLESS = frozenset(
    {"pytest", "numpy", "requests", "httpx", "yaml", "anyio", "hypothesis", "pytest_asyncio", "pandas"}
)
_MOST_MODULES = 50
_SIDES = re.compile(r"(?:^|_)(?:min|max|minimum|maximum|threshold|limit|floor|ceiling|reference|ref)(?=_|$)")


def suggestion(
    file: CalibratedFile,
    metrics: Iterable[str],
    inferred: Inferred,
    found: Collection[Unclaimed],
    recorded: Collection[str],
    *,
    new: bool,
    cpu: bool,
) -> str:
    """YAML whose parts belong at the top level of config.yaml. A person fills in what is blank.

    ``recorded`` are those of the metrics that the tests record by name. ``new``: config says nothing about where the
    file's results are. ``cpu``: the test can reach no GPU, and config does not say so yet.
    """
    test, known = file.name, inferred.layout
    keys = list(dict.fromkeys(metrics))
    named = names_for([one for one in found if one.nameable])
    recorded = {*recorded, *named.values()}
    known_names = [*keys, *named.values(), *inferred.recordings]
    named |= metric_names([one.source for one in found if one.nameable and one.source not in named], known_names)
    lines: list[str] = []
    if named:
        lines += ["thresholds:", f"  {test}:"]
        for one in found:
            if one.source in named and isinstance(one.gate, Gate):
                lines.append(threshold_line(one.source, named[one.source], f"{BOUND[one.gate.worst]}: {one.gate.how}"))
    if not named and not keys:
        what = "what it asserts against stays as it is" if found else "it has no threshold"
        return f"thresholds:\n  {test}: {{}}  # {what}: it must pass, and nothing is written\n"
    if cpu:
        lines += ["gpus_per_test:", f"  {test}: 0  # nothing in it reaches one; without this line a launch takes 1"]
    lines += ["metric_sources:", f"  {test}:", *(_results(inferred) if new else ()), "    paths:"]
    for key in (*keys, *named.values()):
        place = f"{RECORD_FILE}::{key}" if key in recorded else known.paths.get(key) if known else None
        lines.append(f"      {key}: {quoted(place)}")
    return "\n".join(lines) + "\n"


def _results(inferred: Inferred) -> list[str]:
    """Where a test file's results and sample counts are, as far as its code says."""
    lines, known = [f"    json_file: {quoted(inferred.json_file)}"], inferred.layout
    if known:
        lines += count_lines(known.sample_counts.total, known.sample_counts.ok)
    elif inferred.recordings:
        lines += ["    sample_counts: one  # each repeat is one measurement; or the places of total and ok"]
    else:
        lines += ["    sample_counts:  # fill in total and ok, or `one` where a repeat is one measurement"]
    return lines


def needs_no_gpu(files: PythonFiles, path: str) -> bool:
    """Whether neither a test file nor anything of the repository that it imports can reach a GPU, as far as text says.

    A package that is not known, and a process that is started, may use one.
    """
    waiting, seen = [path, *files.conftests(path)], set[str]()
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        tree = files.tree(one)
        if tree is None or len(seen) > _MOST_MODULES or _MAY_USE.search(ast.unparse(tree)):
            return False
        for imported in files.imports(one):
            found = files.led_to(one, imported)
            top = imported.module.partition(".")[0]
            if not found and top not in _HARMLESS and top not in sys.stdlib_module_names:
                return False
            waiting += found
    return True


def names_for(found: Iterable[Unclaimed]) -> dict[str, str]:
    """Threshold -> the one name under which the tests record the very value that they compare with it."""
    names: dict[str, str] = {}
    for one in found:
        left = one.gate.left if isinstance(one.gate, Gate) else ()
        recorded = [place.keys[0] for place in left if place.file == RECORD_FILE]
        if len(recorded) == 1 and recorded[0] not in names.values():
            names[one.source] = recorded[0]
    return names


def metric_names(sources: Iterable[str], taken: Collection[str] = ()) -> dict[str, str]:
    """A metric for each threshold: its own name without its side, with what tells it from the others."""
    found: dict[str, str] = {}
    sources = list(sources)
    bare = [names_in(source) for source in sources]
    for source in sources:
        names = [_plain(name) for name in names_in(source)]
        shortest = next((name for name in reversed(names) if name), "value")
        if any(_SIDES.search(one.lower()) and not _SIDES.fullmatch(one.lower()) for one in names_in(source)[:-1]):
            shortest = "_".join(names)  # the table is named as a bound, so its keys only tell its entries apart
        if bare.count(names_in(source)) > 1:
            shortest = "_".join((shortest, *_numbers(source)))  # only their numbers tell its entries apart
        whole = "_".join(dict.fromkeys(name for name in (*names, *_numbers(source)) if name)) or "value"
        name = next(name for name in _tried(shortest, whole) if name not in (*taken, *found.values()))
        found[source] = name
    return found


def threshold_line(source: str, metric: str, why: str) -> str:
    """A threshold and its metric in ``thresholds`` of a test file, with a comment."""
    key = source if re.fullmatch(r"[\w.\[\]']+", source) else quoted(source)
    return f"    {key}: {metric}  # {why}"


def count_lines(total: str, ok: str) -> list[str]:
    """``sample_counts`` in ``metric_sources`` of a test file."""
    return ["    sample_counts:", f"      total: {quoted(total)}", f"      ok: {quoted(ok)}"]


def quoted(value: str | None, unknown: str = " # fill in") -> str:
    """A text as a value of YAML, and a comment in the place of none."""
    return json.dumps(value, ensure_ascii=False) if value else unknown


def _tried(*names: str) -> Iterable[str]:
    yield from names
    yield from (f"{names[-1]}_{number}" for number in range(2, 1000))


def _plain(name: str) -> str:
    """``_TTFT_P95_MAX`` -> ``ttft_p95``."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    plain = re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")
    return _SIDES.sub("", plain).strip("_") or plain


def _numbers(source: str) -> list[str]:
    return re.findall(r"(?<=[\[( ])\d+(?=[\]),])", source)
