"""The repository's exact pins against its interpreter."""

from __future__ import annotations

from pathlib import Path

import pytest
from precheck.machine import gaps, subject

from tune_mcp.contract.precheck import Check
from tune_mcp.precheck import pins
from tune_mcp.precheck.pins import read_pins, same
from tune_mcp.precheck.venv import VenvFacts

PYPROJECT = """
[project]
name = "omni"
dependencies = [
    "pyzmq>=25.0.0",
    "torch==2.11.0",        # a comment
    "sglang == 0.5.12.post1",
    "Qwen_VL.utils[video]==0.0.11",
    "flash-attn-4>=4.0.0b9,<4.0.0b16",
    "triton==3.5.0; sys_platform == 'linux'",
    "logger",
]
"""
INSTALLED = {"torch": "2.11.0+cu130", "sglang": "0.5.12.post1", "qwen-vl-utils": "0.0.11", "pyzmq": "1"}


def check(root: Path, packages: dict[str, str], problem: str = "", python: str | None = "venv/bin/python") -> Check:
    asked = subject(root, python=root / python if python else None)
    facts = VenvFacts(problem, {"python": "3.11.9"}, packages=packages)
    (found,) = pins.checks(asked, read_pins(asked), facts)
    return found


@pytest.mark.rule("PRE-03", "ENV-03")
def test_every_drifted_pin_is_named_and_one_sync_mends_them(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)

    found = check(tmp_path, {**INSTALLED, "torch": "2.10.0+cu130", "sglang": "0.5.12"})

    assert gaps([found]) == {
        "venv.pins": (
            "mismatch",
            f"cd {tmp_path} && source {tmp_path}/venv/bin/activate && uv pip install -e .",
        )
    }
    assert found.detail.startswith(
        "torch 2.10.0+cu130 (pinned 2.11.0), sglang 0.5.12 (pinned 0.5.12.post1); not compared"
    )


@pytest.mark.rule("ENV-03", "ENV-08")
def test_a_missing_package_is_never_mended_by_name(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)

    found = check(tmp_path, {})

    assert "torch is not there (pinned 2.11.0)" in found.detail
    assert found.fix.endswith("&& uv pip install -e .")


@pytest.mark.rule("PRE-03")
def test_pins_that_are_met_are_ok_and_markers_are_left_to_pip(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)

    found = check(tmp_path, INSTALLED)

    assert (found.status, found.fix) == ("ok", "")
    assert found.detail == "3 pinned version(s) are installed; not compared, because of its marker: triton"


@pytest.mark.parametrize(
    "text", [None, "[tool.x]\n", '[project]\nname = "x"\n', '[project]\ndependencies = ["a>=1", 3]\n', "project = 3\n"]
)
def test_a_repository_without_pins_says_so(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "pyproject.toml").write_text(text)

    found = check(tmp_path, {}, python=None)

    assert found.status == "ok"
    assert "no pyproject.toml" in found.detail or "pins no exact version" in found.detail


@pytest.mark.rule("PRE-12")
def test_pins_that_cannot_be_compared_are_unknown(tmp_path: Path) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_text(PYPROJECT)
    python = tmp_path / "venv/bin/python"
    assert gaps([check(tmp_path, {}, "did not answer within 20 s")]) == {
        "venv.pins": ("unknown", f"{python} --version")
    }
    made = f"cd {tmp_path} && uv venv {tmp_path}/venv && uv pip install --python {python} -e ."
    assert gaps([check(tmp_path, {}, python=None)]) == {"venv.pins": ("unknown", made)}

    path.write_text("[project\n")

    assert gaps([check(tmp_path, INSTALLED)]) == {"venv.pins": ("unknown", f"git -C {tmp_path} diff -- pyproject.toml")}


@pytest.mark.parametrize(
    ("pinned", "installed", "equal"),
    [
        ("2.11.0", "2.11.0+cu130", True),
        ("2.11.0+cu130", "2.11.0", False),
        ("2.11.0+cu130", "2.11.0+cu128", False),
        ("5.6", "5.6.0", True),
        ("5.6.0", "5.6.1", False),
        ("0.5.12.post1", "0.5.12", False),
        ("0.5.12", "0.5.12.post1", False),
        ("2.11.*", "2.11.3", True),
        ("2.1.*", "2.11.3", False),
        ("v1.0RC1", "1.0rc1", True),
        ("20250625", "20250625", True),
    ],
)
def test_versions_are_equal_as_pip_means_it(pinned: str, installed: str, equal: bool) -> None:
    assert same(pinned, installed) is equal
