"""Take out what keeps a rule and see a test of that rule fail: ``python tests/rules/take_out.py [ID …]``.

``manifest.yaml`` says for each rule what is taken out (a text of one file, and what stands there instead), and which
test noticed. Every harm is tried against the tests marked with its rule, the named one first; a run that ends in any
other way than by a failed test counts as not noticed. Files are changed in place and always put back.
"""

from __future__ import annotations

import argparse
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

sys.path.insert(0, str(Path(__file__).parents[1]))
from register import ROOT, marks

MANIFEST = Path(__file__).with_name("manifest.yaml")
HEADER = """\
# Rule id -> what was taken out of the product to break the rule, and the test of that rule that was seen to fail then.
# How a rule is kept and where: tune_mcp/rules.yaml. Which tests try to break it: @pytest.mark.rule("ID") below tests/.
# `python tests/rules/take_out.py [--record] [ID or area ...]` does it again (and writes noticed_by).
"""
FAILED = 1
"""What pytest's exit code is when tests ran and some failed; 2 and above say that it could not run them."""
SLOW = ("tests/e2e", "tests/faults", "tests/browser", "tests/clients")


class Harm(BaseModel):
    """A text that a file holds exactly once, and what it becomes."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    file: str = Field(alias="in")
    text: str
    becomes: str

    def done_to(self, whole: str) -> str:
        """The file with the harm done to it."""
        if whole.count(self.text) != 1:
            raise ValueError(f"{self.file} holds this {whole.count(self.text)} times: {self.text}")
        return whole.replace(self.text, self.becomes)


class Proof(BaseModel):
    """That a rule holds by what was taken out: the harms, done together, and the test that was seen to fail."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    taken_out: tuple[Harm, ...] = Field(min_length=1)
    noticed_by: str = ""


def manifest() -> dict[str, Proof]:
    """Every proof by the id of its rule."""
    return TypeAdapter(dict[str, Proof]).validate_python(yaml.safe_load(MANIFEST.read_text()))


@contextmanager
def harmed(proof: Proof) -> Iterator[None]:
    """The working tree with the harms done, put back on the way out."""
    before = {ROOT / harm.file: (ROOT / harm.file).read_bytes() for harm in proof.taken_out}
    try:
        for harm in proof.taken_out:
            path = ROOT / harm.file
            path.write_text(harm.done_to(path.read_text()))
        yield
    finally:
        for path, content in before.items():
            path.write_bytes(content)


def first_failure(rule: str, named: str, seconds: float) -> str:
    """The first test of a rule that fails now, or ""; quick tests are tried before those of whole processes."""
    tests = {mark.test for mark in marks() if mark.rule == rule}
    known = [named] if named in tests else []
    quick = sorted(test for test in tests - {*known} if not test.startswith(SLOW))
    slow = sorted(tests - {*known, *quick})
    for some in filter(None, (known, quick, slow)):
        command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "--tb=no", "-rf", *some]
        try:
            ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds)
        except subprocess.TimeoutExpired:
            continue
        if ran.returncode == FAILED and (failed := re.search(r"^FAILED ([^\[\s]+)", ran.stdout, re.MULTILINE)):
            return failed[1]
        if ran.returncode > FAILED:
            print(ran.stdout[-2000:], file=sys.stderr)
    return ""


def record(seen: dict[str, str]) -> None:
    """Write down which test noticed."""
    content = yaml.safe_load(MANIFEST.read_text())
    for rule, test in seen.items():
        content[rule]["noticed_by"] = test
    text = yaml.dump(content, Dumper=_Plain, width=120, allow_unicode=True, sort_keys=False)
    MANIFEST.write_text(HEADER + text)


class _Plain(yaml.SafeDumper):
    """Writes a text of several lines as such."""


def _text(dumper: _Plain, value: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Plain.add_representer(str, _text)


def main() -> int:
    """Harm, test, tell. Exit code 1 when a harm was not noticed."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("rules", nargs="*", help="ids, or the letters of an area; all unless given")
    arguments.add_argument("--seconds", type=float, default=120, help="of one call of pytest")
    arguments.add_argument("--record", action="store_true", help="write into the manifest which test noticed")
    given = arguments.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the files are put back
    chosen = {rule: proof for rule, proof in manifest().items() if not given.rules or asked(rule, given.rules)}
    seen: dict[str, str] = {}
    for rule, proof in chosen.items():
        began = time.monotonic()
        with harmed(proof):
            if found := first_failure(rule, proof.noticed_by, given.seconds):
                seen[rule] = found
        print(f"{rule} {seen.get(rule, 'NOT NOTICED')} ({time.monotonic() - began:.0f} s)", flush=True)
    if given.record:
        record(seen)
    print(f"{len(seen)} of {len(chosen)} rules: taken out, and a test of the rule failed")
    return 0 if len(seen) == len(chosen) else 1


def asked(rule: str, names: list[str]) -> bool:
    return rule in names or rule.partition("-")[0] in names


if __name__ == "__main__":
    raise SystemExit(main())
