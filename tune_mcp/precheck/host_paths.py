"""The host profile: every folder and file that it names is there (HST-04, HST-05)."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from tune_mcp.contract.precheck import Check
from tune_mcp.precheck.subject import Subject


def checks(subject: Subject) -> Iterator[Check]:
    """``host.paths``: one gap a path; what the caller overrode does not count (HST-05).

    ``physical.omni_ci_home`` is OMNI_CI_HOME of every launch and belongs to ``env.layout``, ``venv_python`` to
    ``venv.python``: one gap is told once.
    """
    profile = subject.needs.profile
    if profile is None:
        return
    named = {"physical.hf_hub": profile.physical.hf_hub, "physical.speaker_sim": profile.physical.speaker_sim}
    gaps = [
        Check(
            id=f"host.paths:{key}",
            status="missing",
            detail=f"{key} of host profile {profile.name} does not exist: {path}",
            fix=f"mkdir -p {shlex.quote(path)}",
        )
        for key, path in named.items()
        if path and not Path(path).exists()
    ]
    if profile.repo_root == str(subject.repo_root) and not subject.repo_root.is_dir():
        edit = f"set repo_root in hosts/{profile.name}.yaml to the checkout on this machine"
        detail = f"repo_root of host profile {profile.name} does not exist: {profile.repo_root}"
        gaps.append(Check(id="host.paths:repo_root", status="missing", detail=detail, fix=edit))
    yield from gaps
    if not gaps:
        count = 1 + sum(1 for path in named.values() if path)
        yield Check(id="host.paths", status="ok", detail=f"{count} path(s) of host profile {profile.name} exist")
