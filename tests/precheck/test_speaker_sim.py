"""Speaker-similarity checkpoints and the capability of tests that span GPUs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from precheck.machine import MIRROR, gaps, profile, stage, subject

from tune_mcp.precheck import assets, hardware
from tune_mcp.precheck.subject import Needs, Subject

FLOOR = assets.MINIMUM_BYTES


def sized(path: Path, size: int) -> None:
    path.touch()
    os.truncate(path, size)


def filled(folder: Path, size: int = FLOOR) -> Path:
    folder.mkdir()
    for name in assets.CHECKPOINTS:
        sized(folder / name, size)
    (folder / ".complete").touch()
    return folder


def asking(root: Path, folder: Path, *, bootstrap: bool = True) -> Subject:
    step = {
        "command": "cd /repo && python -m warm --warm-cache\n",
        "env": {"HF_ENDPOINT": MIRROR, "SEEDTTS_SIM_CACHE_DIR": str(folder)},
        "hf_token": "HF_TOKEN must be set",
    }
    host = profile(root, {"speaker_sim": str(folder)}, step if bootstrap else None)
    return subject(root, Needs(env={**host.env(), "HF_ENDPOINT": MIRROR}, profile=host), python=root / "bin/python")


def fix(folder: Path) -> str:
    command = "'cd /repo && python -m warm --warm-cache'"
    return f"env HF_ENDPOINT={MIRROR} SEEDTTS_SIM_CACHE_DIR={folder} bash -c {command}"


@pytest.mark.rule("PRE-06")
@pytest.mark.parametrize("gone", [".complete", *assets.CHECKPOINTS])
def test_each_of_the_three_files_is_needed(tmp_path: Path, gone: str) -> None:
    folder = filled(tmp_path / "sim")
    assert gaps(assets.speaker_sim_checks(asking(tmp_path, folder))) == {}
    (folder / gone).unlink()

    (check,) = assets.speaker_sim_checks(asking(tmp_path, folder))

    assert gaps([check]) == {"speaker_sim.assets": ("missing", fix(folder))}
    assert check.detail == f"{folder}: no {gone} (HF_TOKEN must be set)"


@pytest.mark.rule("PRE-06")
@pytest.mark.parametrize("size", [0, FLOOR - 1])
def test_a_checkpoint_below_the_floor_is_none(tmp_path: Path, size: int) -> None:
    folder = filled(tmp_path / "sim")
    sized(folder / "wavlm_large.pt", size)

    assert gaps(assets.speaker_sim_checks(asking(tmp_path, folder))) == {"speaker_sim.assets": ("missing", fix(folder))}


@pytest.mark.rule("PRE-06")
def test_a_size_other_than_the_recorded_one_is_a_gap(tmp_path: Path) -> None:
    folder = filled(tmp_path / "sim")
    marker = {"schema_version": 2, "files": {"wavlm_large.pt": {"repo_id": "a/b", "size": FLOOR}}}
    (folder / ".complete").write_text(json.dumps(marker))
    assert gaps(assets.speaker_sim_checks(asking(tmp_path, folder))) == {}

    sized(folder / "wavlm_large.pt", FLOOR + 1)

    assert "recorded" in next(iter(assets.speaker_sim_checks(asking(tmp_path, folder)))).detail


def test_a_folder_that_is_not_there_lists_everything(tmp_path: Path) -> None:
    (check,) = assets.speaker_sim_checks(asking(tmp_path, tmp_path / "sim"))

    assert "no .complete, no wavlm_large.pt, no wavlm_large_finetune.pth" in check.detail


def test_without_a_host_command_the_project_s_own_loader_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "sim"
    asked = asking(tmp_path, folder, bootstrap=False)
    (check,) = assets.speaker_sim_checks(asked)
    assert check.fix.startswith(f"put .complete, wavlm_large.pt and wavlm_large_finetune.pth into {folder}")

    loader = tmp_path / "benchmarks/metrics/speaker_similarity_assets.py"
    loader.parent.mkdir(parents=True)
    loader.touch()

    (check,) = assets.speaker_sim_checks(asked)
    assert check.fix == (
        f"cd {tmp_path} && SEEDTTS_SIM_CACHE_DIR={folder} HF_ENDPOINT={MIRROR} {tmp_path}/bin/python "
        "-m benchmarks.metrics.speaker_similarity_assets --warm-cache"
    )


def test_a_model_that_names_no_such_folder_has_no_such_check(tmp_path: Path) -> None:
    assert list(assets.speaker_sim_checks(subject(tmp_path))) == []


def status_file(root: Path, mask: str) -> Path:
    path = root / "status"
    path.write_text(f"Name:\tpytest\nCapPrm:\t000001ffffffffff\nCapEff:\t{mask}\nCapBnd:\t000001ffffffffff\n")
    return path


TP2 = stage("tests/test_model/test_omni_talker_tp2_ci.py")


@pytest.mark.rule("PRE-12", "FAIL-05")
@pytest.mark.parametrize("mask", ["0000000000000000", "00000000a80425fb", "000001fffff7ffff"])
def test_a_mask_without_bit_19_is_a_gap_that_the_container_s_start_mends(tmp_path: Path, mask: str) -> None:
    found = hardware.ptrace_checks(subject(tmp_path, stages=[stage(), TP2]), status_file(tmp_path, mask))

    assert gaps(found) == {"host.ptrace": ("missing", "docker run --cap-add=SYS_PTRACE")}


@pytest.mark.parametrize("mask", ["0000000000080000", "000001ffffffffff"])
def test_bit_19_is_enough(tmp_path: Path, mask: str) -> None:
    (check,) = hardware.ptrace_checks(subject(tmp_path, stages=[TP2]), status_file(tmp_path, mask))

    assert (check.id, check.status) == ("host.ptrace", "ok")


@pytest.mark.rule("PRE-12")
@pytest.mark.parametrize("mask", [None, "", "cap_sys_ptrace"])
def test_a_mask_that_cannot_be_read_is_unknown(tmp_path: Path, mask: str | None) -> None:
    status = tmp_path / "gone" if mask is None else status_file(tmp_path, mask)

    found = hardware.ptrace_checks(subject(tmp_path, stages=[TP2]), status)

    assert gaps(found) == {"host.ptrace": ("unknown", f"grep CapEff {status}")}


@pytest.mark.rule("PRE-04")
@pytest.mark.parametrize(
    ("test", "env", "needed"),
    [
        ("test_x_tp2_ci.py", {}, True),
        ("test_x_tp4.py", {}, True),
        ("test_x_tp1_ci.py", {}, False),
        ("test_http2_ci.py", {}, False),
        ("test_x_ci.py", {"TP": "2"}, True),
        ("test_x_ci.py", {"OMNI_TP_SIZE": "2"}, True),
        ("test_x_ci.py", {"TP_SIZE": "1"}, False),
        ("test_x_ci.py", {"HTTP": "2"}, False),
    ],
)
def test_only_a_selected_test_that_says_so_needs_the_capability(
    tmp_path: Path, test: str, env: dict[str, str], needed: bool
) -> None:
    asked = subject(tmp_path, stages=[stage(f"tests/{test}", env)])

    assert bool(list(hardware.ptrace_checks(asked, status_file(tmp_path, "0")))) is needed
