"""Files outside a hub cache that tests load: there, long enough, and the command that gets them."""

from __future__ import annotations

from pathlib import Path

import pytest
from precheck.machine import stage, subject

from tune_mcp.config.loader import ConfigPlaces
from tune_mcp.config.model import ModelConfig, RequiredFile
from tune_mcp.contract.precheck import Check
from tune_mcp.precheck import assets
from tune_mcp.precheck.subject import Needs


def check(root: Path, wanted: RequiredFile, env: dict[str, str]) -> Check:
    asked = subject(root, Needs(env=env, files=(wanted,)), [stage()], root / "venv/bin/python")
    (found,) = assets.required_files_checks(asked)
    return found


@pytest.mark.parametrize(
    ("path", "env", "place"),
    [
        ("$HOME/.cache/u.jit", {}, "home/.cache/u.jit"),
        ("~/.cache/u.jit", {}, "home/.cache/u.jit"),
        ("${OMNI_CI_HOME}/u.jit", {"OMNI_CI_HOME": "{root}/slice"}, "slice/u.jit"),
        ("${UTMOS:-$HOME/.cache}/u.jit", {}, "home/.cache/u.jit"),
        ("${UTMOS:-${HOME}/.cache}/u.jit", {}, "home/.cache/u.jit"),
        ("${UTMOS:-$HOME/.cache}/u.jit", {"UTMOS": "{root}/utmos"}, "utmos/u.jit"),
    ],
)
def test_a_path_is_that_of_a_launch_and_the_file_must_be_whole(
    tmp_path: Path, path: str, env: dict[str, str], place: str
) -> None:
    env = {name: value.format(root=tmp_path) for name, value in env.items()} | {"HOME": f"{tmp_path}/home"}
    wanted = RequiredFile(path=path, min_bytes=10, fetch="{python} -m get --to {repo}")
    file = tmp_path / place

    absent = check(tmp_path, wanted, env)
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x" * 9)
    cut = check(tmp_path, wanted, env)
    file.write_bytes(b"x" * 10)
    whole = check(tmp_path, wanted, env)

    assert (absent.id, absent.status, absent.detail) == ("files:u.jit", "missing", f"{file} is not there")
    assert absent.fix.startswith(f"cd {tmp_path} && HOME={tmp_path}/home ")
    assert absent.fix.endswith(f"{tmp_path}/venv/bin/python -m get --to {tmp_path}")
    assert (cut.status, cut.detail) == ("missing", f"{file} has 9 bytes, a complete one at least 10")
    assert (whole.status, whole.fix) == ("ok", "")


def test_a_folder_a_dead_link_and_a_path_without_its_variable_are_told(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path)}
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "gone")

    assert "is no file" in check(tmp_path, RequiredFile(path="$HOME/folder"), env).detail
    dead = check(tmp_path, RequiredFile(path="$HOME/link"), env)
    assert (dead.status, "leads nowhere" in dead.detail, dead.fix.startswith("put the file at")) == (
        "missing",
        True,
        True,
    )
    odd = check(tmp_path, RequiredFile(path="$NOWHERE"), env)
    assert (odd.status, "required_files in models/toy/config.yaml" in odd.fix) == ("mismatch", True)


def test_only_the_files_of_the_selected_tests_are_asked_for() -> None:
    model = ModelConfig.model_validate(
        {
            "name": "toy",
            "test_globs": ["tests/*.py"],
            "required_files": [{"path": "/a"}, {"path": "/b", "tests": ("test_b_ci.py",)}],
        }
    )
    a, b = (stage(f"tests/test_{name}_ci.py", ids=("org/m",)) for name in "ab")

    assert [one.path for one in Needs.of(model, None, [a]).files] == ["/a"]
    assert [one.path for one in Needs.of(model, None, [a, b]).files] == ["/a", "/b"]


@pytest.mark.parametrize(("name", "test"), [("tts", "test_tts_ci.py"), ("qwen3-omni-v1", "test_qwen3_omni_tts_ci.py")])
def test_shipped_models_ask_for_the_weights_of_the_speech_quality_score(name: str, test: str) -> None:
    model = ConfigPlaces.resolve(None, None).model(name)
    weights, marker = model.required_files

    assert assets.expanded(weights.path, {"HOME": "/h"}) == "/h/.cache/sglang-omni/utmos/utmos.jit"
    assert (weights.min_bytes, weights.tests, marker.tests) == (10 * 2**20, (test,), (test,))


def test_the_serving_benchmark_s_texts_are_asked_for_at_the_commit_that_it_pins(tmp_path: Path) -> None:
    test = tmp_path / "tests/test_model/test_tts_serving_ci.py"
    test.parent.mkdir(parents=True)
    test.touch()
    model = ConfigPlaces.resolve(tmp_path, None).model("tts")
    (texts,) = (one for one in model.required_files if one.tests == ("test_tts_serving_ci.py",))

    place = assets.expanded(texts.path, {"HF_HOME": "/h"})
    assert place.startswith("/h/hub/datasets--zhaochenyang20--seed-tts-eval/snapshots/") and texts.fetch
