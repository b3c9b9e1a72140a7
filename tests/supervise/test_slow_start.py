"""The diagnosis of a slow start: which usual cause is off in this launch, and the remedy in the right order."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tune_mcp.config.signatures import rules
from tune_mcp.supervise.caches import wipe
from tune_mcp.supervise.watch.slow_start import LaunchFacts, causes, remedy

STARTUP = rules().startup
BEGAN = 1_800_000_000.0


@pytest.fixture
def aligned(tmp_path: Path) -> dict[str, str]:
    """The variables of a launch in which nothing is off."""
    root = tmp_path / "slice"
    tool(tmp_path / "venv", "ninja")
    return {
        "HOME": "/github/home",
        "OMNI_CI_HOME": str(root),
        "XDG_CACHE_HOME": str(root / ".cache"),
        "TORCHINDUCTOR_CACHE_DIR": str(root / ".torchinductor"),
        "PATH": str(tmp_path / "venv/bin"),
    }


def tool(home: Path, name: str) -> None:
    path = home / "bin" / name
    path.parent.mkdir(parents=True)
    path.touch(mode=0o755)
    (home / "pyvenv.cfg").touch()


def kernel(variables: dict[str, str], age: float) -> None:
    path = Path(variables["OMNI_CI_HOME"]) / ".cache/flashinfer/0.6.1/90a/kernel.so"
    path.parent.mkdir(parents=True)
    path.touch()
    os.utime(path, (BEGAN - age, BEGAN - age))


def off(tmp_path: Path, variables: dict[str, str]) -> dict[str, str]:
    launch = LaunchFacts(variables, tmp_path / "venv/bin/python", BEGAN)
    return {cause.name: cause.found for cause in causes(launch, STARTUP) if cause.off}


@pytest.mark.parametrize("name", ["HOME", "FLASHINFER_WORKSPACE_BASE"])
def test_old_kernels_where_flashinfer_itself_caches_are_seen_and_the_remedy_names_the_place(
    tmp_path: Path, name: str
) -> None:
    kernel = tmp_path / "own/.cache/flashinfer/90a/kernel.so"
    kernel.parent.mkdir(parents=True)
    kernel.touch()
    os.utime(kernel, (1, 1))
    variables = {"OMNI_CI_HOME": str(tmp_path / "slice"), name: str(tmp_path / "own")}

    found = causes(LaunchFacts(variables, tmp_path / "bin/python", 100.0), rules().startup)[0]

    assert (found.off, str(kernel) in found.found) == (True, True)
    assert "${FLASHINFER_WORKSPACE_BASE:-$HOME}/.cache/flashinfer" in rules().startup.remedy[0]


@pytest.mark.rule("WDG-04")
def test_an_aligned_launch_has_nothing_off_not_even_kernels_it_made_itself(
    tmp_path: Path, aligned: dict[str, str]
) -> None:
    kernel(aligned, age=-30)
    assert off(tmp_path, aligned) == {}


@pytest.mark.rule("WDG-04", "FAIL-03", "FAIL-04")
@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("HOME", "/root", "/root, should be /github/home"),
        ("XDG_CACHE_HOME", "/root/.cache", "/root/.cache, should be below"),
        ("XDG_CACHE_HOME", "", "not set, should be below"),
        ("TORCHINDUCTOR_CACHE_DIR", "/.torchinductor", "/.torchinductor, should be below"),
    ],
)
def test_a_variable_that_is_off_is_named_with_what_it_should_be(
    tmp_path: Path, aligned: dict[str, str], name: str, value: str, found: str
) -> None:
    (wrong,) = off(tmp_path, aligned | {name: value}).items()
    assert wrong[0] == name and found in wrong[1]


@pytest.mark.rule("WDG-04", "ENV-31")
def test_kernels_of_an_earlier_build_and_a_strange_compiler_are_named(tmp_path: Path, aligned: dict[str, str]) -> None:
    kernel(aligned, age=3600)
    tool(tmp_path / "other", "ninja")
    aligned["PATH"] = f"{tmp_path / 'other/bin'}:{aligned['PATH']}"

    found = off(tmp_path, aligned)

    assert set(found) == {"JIT leftovers", "nvcc/ninja"}
    assert "kernel.so is older than this launch" in found["JIT leftovers"]
    assert f"belongs to {tmp_path / 'other'}" in found["nvcc/ninja"]


@pytest.mark.rule("WDG-05")
def test_the_remedy_comes_in_order(tmp_path: Path, aligned: dict[str, str]) -> None:
    steps = remedy(STARTUP, LaunchFacts(aligned, tmp_path / "venv/bin/python", BEGAN)).split("; ")
    wanted = ("1. delete ${OMNI_CI_HOME}/.cache/flashinfer", "2. source", "3. confirm that HOME is /github/home", "4.")
    assert [step.startswith(begin) for step, begin in zip(steps, wanted, strict=True)] == [True] * 4


@pytest.mark.rule("WDG-05", "FAIL-02")
@pytest.mark.parametrize("root", ["", "relative"])
def test_without_a_slice_nothing_is_named_that_could_be_deleted(tmp_path: Path, root: str) -> None:
    launch = LaunchFacts({"OMNI_CI_HOME": root}, tmp_path / "venv/bin/python", BEGAN)
    text = remedy(STARTUP, launch)
    assert text.startswith("1. set OMNI_CI_HOME to the CI slice") and "delete" not in text
    assert [cause.off for cause in causes(launch, STARTUP) if cause.name == "JIT leftovers"] == [None]
    with pytest.raises(ValueError):
        wipe(Path("/"), [".cache/flashinfer"])


@pytest.mark.rule("WDG-10", "WDG-08")
def test_the_compiled_graphs_outlive_the_wipe_of_the_kernels(aligned: dict[str, str]) -> None:
    kernel(aligned, age=0)
    graph = Path(aligned["TORCHINDUCTOR_CACHE_DIR"]) / "graph"
    graph.parent.mkdir()
    graph.touch()

    assert wipe(Path(aligned["OMNI_CI_HOME"]), [".cache/flashinfer"]) == (".cache/flashinfer",)

    assert graph.exists()
