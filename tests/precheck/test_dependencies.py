"""Every declared dependency of the repository against its interpreter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from precheck.machine import gaps, subject

from tune_mcp.contract.precheck import Check
from tune_mcp.precheck import dependencies
from tune_mcp.precheck.dependencies import read_declared, satisfied
from tune_mcp.precheck.subject import Needs
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
    "pywin32; sys_platform == 'win32'",
    "logger",
]
[project.optional-dependencies]
test = ["pytest-asyncio>=0.21", "omni[audio]"]
audio = ["s3prl>=0.4.18"]
[dependency-groups]
dev = ["jiwer", {include-group = "lint"}]
lint = ["ruff"]
"""
INSTALLED = {
    "torch": "2.11.0+cu130", "sglang": "0.5.12.post1", "qwen-vl-utils": "0.0.11", "pyzmq": "27.0",
    "flash-attn-4": "4.0.0b10", "triton": "3.5.0", "logger": "1.4",
}  # fmt: skip


def check(
    root: Path,
    packages: dict[str, str],
    problem: str = "",
    python: str | None = "venv/bin/python",
    needs: Needs | None = None,
    facts: VenvFacts | None = None,
) -> list[Check]:
    asked = subject(root, needs, python=root / python if python else None)
    facts = facts or VenvFacts(problem, {"python": "3.11.9"}, packages=packages)
    return list(dependencies.checks(asked, read_declared(asked), facts))


@pytest.mark.rule("PRE-03", "ENV-03", "ENV-08")
def test_all_that_is_absent_and_all_wrong_versions_are_told_at_once_with_one_sync(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    packages = {**INSTALLED, "torch": "2.10.0+cu130", "pyzmq": "24.0.1"}
    del packages["logger"], packages["triton"]

    found = check(tmp_path, packages)

    sync = f"cd {tmp_path} && source {tmp_path}/venv/bin/activate && uv pip install -e ."
    assert gaps(found) == {
        "venv.dependencies:missing": ("missing", sync),
        "venv.dependencies:version": ("mismatch", sync),
    }
    assert found[0].detail == "not installed: triton ==3.5.0, logger"
    assert found[1].detail == "pyzmq 24.0.1 (needs >=25.0.0), torch 2.10.0+cu130 (pinned ==2.11.0)"


@pytest.mark.rule("PRE-03")
def test_what_is_met_is_ok_and_a_marker_of_another_system_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)

    (found,) = check(tmp_path, INSTALLED)

    assert (found.status, found.fix, found.detail) == ("ok", "", "7 declared dependencies are installed as declared")


def test_markers_are_judged_in_the_interpreter_of_the_project(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        "[project]\ndependencies = [\"tomli; python_version < '3.11'\", \"new; python_full_version >= '3.13'\"]\n"
    )
    old = VenvFacts("", {"python": "3.10.1"}, markers={"python_version": "3.10", "python_full_version": "3.10.1"})
    new = VenvFacts("", {"python": "3.13.0"}, markers={"python_version": "3.13", "python_full_version": "3.13.0"})

    assert check(tmp_path, {}, facts=old)[0].detail == "not installed: tomli"
    assert check(tmp_path, {}, facts=new)[0].detail == "not installed: new"


def test_extras_of_a_dependency_need_what_its_metadata_declares_for_them(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\ndependencies = ["mistral_common[audio]>=1.11"]\n')
    requires = {
        "mistral-common": ("soundfile>=0.12; extra == 'audio'", "soxr; extra == 'audio'", "cv2; extra == 'image'")
    }
    facts = VenvFacts(
        "", {"python": "3.11.9"}, packages={"mistral-common": "1.12", "soundfile": "0.10"}, requires=requires
    )

    missing, version, *_ = check(tmp_path, {}, facts=facts)

    assert missing.detail == "not installed: soxr for mistral_common[audio]"
    assert version.detail == "soundfile 0.10 (needs >=0.12 for mistral_common[audio])"


def test_extras_and_groups_that_config_names_are_declared_too(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)

    missing, unread, *_ = check(tmp_path, INSTALLED, needs=Needs(extras=("test", "dev", "nothing")))

    assert missing.detail == "not installed: pytest-asyncio >=0.21, s3prl >=0.4.18, jiwer, ruff"
    assert missing.fix.endswith("uv pip install -e '.[test,dev,nothing]'")
    assert (unread.status, unread.detail) == ("warn", "not read: no extra or dependency group nothing")


def test_absent_packages_that_config_calls_optional_are_a_warning_and_their_wrong_versions_a_gap(
    tmp_path: Path,
) -> None:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    needs = Needs(optional=("Logger", "torch"))
    packages = {name: version for name, version in INSTALLED.items() if name != "logger"} | {"torch": "2.12.0"}

    found = {one.id: one.status for one in check(tmp_path, packages, needs=needs)}

    assert found == {"venv.dependencies:version": "mismatch", "venv.dependencies:optional": "warn"}


def test_dependencies_that_setuptools_reads_from_a_file_are_read_from_it(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "omni"\ndynamic = ["dependencies"]\n'
        '[tool.setuptools.dynamic]\ndependencies = {file = ["requirements.txt"]}\n'
    )
    (tmp_path / "requirements.txt").write_text("# the server\npyzmq>=25  # sockets\n-r more.txt\n\njiwer\n")

    assert check(tmp_path, {"jiwer": "4"})[0].detail == "not installed: pyzmq >=25"


def test_dynamic_dependencies_come_from_the_installed_metadata_or_are_said_to_be_unknown(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "Omni_Tools"\ndynamic = ["dependencies"]\n')
    facts = VenvFacts("", {"python": "3.11.9"}, packages={"omni-tools": "1"}, requires={"omni-tools": ("pyzmq>=25",)})

    assert check(tmp_path, {}, facts=facts)[0].detail == "not installed: pyzmq >=25"
    (unknown,) = check(tmp_path, {})
    assert (unknown.status, "not installed: none was compared" in unknown.detail) == ("warn", True)


def test_a_version_that_uv_overrides_counts_and_an_interpreter_that_the_project_refuses_is_a_mismatch(
    tmp_path: Path,
) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nrequires-python = ">=3.12"\ndependencies = ["protobuf<6"]\n'
        '[tool.uv]\noverride-dependencies = ["protobuf>=6.31.1,<7"]\n'
    )

    python, ok = check(tmp_path, {"protobuf": "6.32"})

    assert (python.id, python.status) == ("venv.dependencies:python", "mismatch")
    assert "needs Python >=3.12, the interpreter is 3.11.9" in python.detail
    assert ok.status == "ok"


@pytest.mark.parametrize(
    "text", [None, "[tool.x]\n", '[project]\nname = "x"\n', "[project]\ndependencies = []\n", "project = 3\n"]
)
def test_a_repository_without_dependencies_says_so(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "pyproject.toml").write_text(text)

    (found,) = check(tmp_path, {}, python=None)

    assert found.status == "ok"
    assert "no pyproject.toml" in found.detail or "declares no dependency" in found.detail


@pytest.mark.rule("PRE-12")
def test_dependencies_that_cannot_be_compared_are_unknown(tmp_path: Path) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_text(PYPROJECT)
    python = tmp_path / "venv/bin/python"
    assert gaps(check(tmp_path, {}, "did not answer within 20 s")) == {
        "venv.dependencies": ("unknown", f"{python} --version")
    }
    made = f"cd {tmp_path} && uv venv {tmp_path}/venv && uv pip install --python {python} -e ."
    assert gaps(check(tmp_path, {}, python=None)) == {"venv.dependencies": ("unknown", made)}

    path.write_text("[project\n")

    assert gaps(check(tmp_path, INSTALLED)) == {
        "venv.dependencies": ("unknown", f"git -C {tmp_path} diff -- pyproject.toml")
    }


def test_a_declaration_that_is_no_requirement_is_told_and_hides_no_other(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\ndependencies = ["a>=1", 3, "b >> 2", "c @ file:///x"]\n')

    missing, unread, *_ = check(tmp_path, {"a": "1"})

    assert (missing.detail, unread.detail) == ("not installed: c", "not read: 3; b >> 2")


def test_exact_versions_for_every_platform_are_recorded_as_pins(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)

    assert read_declared(subject(tmp_path)).exact() == {
        "torch": "2.11.0",
        "sglang": "0.5.12.post1",
        "qwen-vl-utils": "0.0.11",
    }


@pytest.mark.parametrize(
    ("specifier", "installed", "fits"),
    [
        ("==2.11.0", "2.11.0+cu130", True),
        ("==2.11.0+cu130", "2.11.0", False),
        ("==2.11.0+cu130", "2.11.0+cu128", False),
        ("==5.6", "5.6.0", True),
        ("==5.6.0", "5.6.1", False),
        ("==0.5.12.post1", "0.5.12", False),
        ("==0.5.12", "0.5.12.post1", False),
        ("==2.11.*", "2.11.3", True),
        ("==2.1.*", "2.11.3", False),
        ("==v1.0RC1", "1.0rc1", True),
        ("==20250625", "20250625", True),
        (">=4.0.0b9,<4.0.0b16", "4.0.0b10", True),
        (">=4.0.0b9,<4.0.0b16", "4.0.0b16", False),
        (">=1.0", "2.0.dev1", True),
        (">=9", "10.0", True),
        (">=1", "unknown", False),
        ("===unknown", "unknown", True),
        ("", "1", True),
    ],
)
def test_versions_fit_as_pip_means_it(specifier: str, installed: str, fits: bool) -> None:
    assert satisfied(SpecifierSet(specifier), installed) is fits


def test_a_package_without_any_version_is_no_fit(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\ndependencies = ["a>=1"]\n')

    assert check(tmp_path, {"a": ""})[0].detail == "a (no version) (needs >=1)"


def test_the_facts_of_an_interpreter_are_not_changed_by_a_look(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    facts = VenvFacts("", {"python": "3.11.9"}, packages=dict(INSTALLED))

    check(tmp_path, {}, facts=facts)

    assert facts == replace(facts, packages=INSTALLED)
