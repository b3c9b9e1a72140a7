"""auto_env is what CI's own script exports, or precheck says where it is not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from precheck.machine import gaps, profile, subject

from tune_mcp.precheck.subject import Needs
from tune_mcp.precheck.variables import ci_env_checks as checks
from tune_mcp.precheck.variables import read_ci_env as read

SCRIPT = """# Source me.
set -a
export HOME=/home/ci
export SLICE="${SLICE:-/home/ci/slice}"
export CACHE="${SLICE}/.cache"
export HF_HOME=$HOME/hf  # shared
export CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES:-0,1}"
WHO="$(whoami)"
if [ -n "$X" ]; then export Y=1; fi
set +a
"""
AGREED = {"HOME": "/home/ci", "SLICE": "/home/ci/slice", "CACHE": "/home/ci/slice/.cache", "HF_HOME": "/home/ci/hf"}


def found(root: Path, env: Mapping[str, str], script: str | None = SCRIPT, physical: str = "") -> dict[str, str]:
    if script is not None:
        (root / "ci_env.sh").write_text(script)
    host = profile(root, {"hf_hub": physical}) if physical else None
    one = subject(root, Needs(env=env, ci_env_file="ci_env.sh", profile=host))
    told = list(checks(one))
    assert set(gaps(told)) == {check.id for check in told if check.status != "ok"}
    return {check.id: check.detail for check in told if check.status != "ok"}


def test_an_environment_as_in_ci_is_ok(tmp_path: Path) -> None:
    assert found(tmp_path, AGREED) == {}


@pytest.mark.rule("ENV-16", "PRE-12")
@pytest.mark.parametrize("name", AGREED)
def test_a_variable_that_config_lacks_is_named(tmp_path: Path, name: str) -> None:
    told = found(tmp_path, {key: value for key, value in AGREED.items() if key != name})

    assert f"{name} is not set, CI has {AGREED[name]}" in told["env.ci"]


@pytest.mark.rule("ENV-16", "FAIL-04")
def test_a_variable_with_another_value_is_named_unless_ci_leaves_it_open(tmp_path: Path) -> None:
    assert found(tmp_path, AGREED | {"HOME": "/root"})["env.ci"].startswith("HOME=/root, CI has /home/ci")
    assert found(tmp_path, AGREED | {"SLICE": "/mine", "CACHE": "/mine/.cache"}) == {}


@pytest.mark.rule("ENV-26")
@pytest.mark.parametrize(
    "line", ["HF_TOKEN=hf_hunter2", "https_proxy=http://hunter2:3128", "INDEX=https://u:hunter2@mirror"]
)
def test_what_belongs_to_ci_s_own_shell_is_neither_asked_for_nor_shown(tmp_path: Path, line: str) -> None:
    assert found(tmp_path, AGREED, f"{SCRIPT}export {line}\n") == {}
    told = found(tmp_path, {}, f"{SCRIPT}export {line}\n")["env.ci"]
    assert "HOME is not set" in told and "hunter2" not in told


def test_a_host_profile_may_keep_its_caches_elsewhere(tmp_path: Path) -> None:
    assert found(tmp_path, AGREED | {"HF_HOME": "/mine"}) != {}
    assert found(tmp_path, AGREED | {"HF_HOME": "/mine"}, physical="/mine") == {}


def test_a_tree_without_the_script_says_so_and_a_model_without_the_key_does_not_ask(tmp_path: Path) -> None:
    assert found(tmp_path, AGREED, script=None) == {"env.ci": "there is no ci_env.sh in this tree"}
    assert list(checks(subject(tmp_path, Needs(env=AGREED)))) == []


def test_what_only_a_shell_can_work_out_is_left_to_it() -> None:
    assert read(SCRIPT, {}) == {**AGREED, "CUDA_VISIBLE_DEVICES": "0,1"}
    assert read(SCRIPT, {"SLICE": "/mine"})["CACHE"] == "/mine/.cache"
