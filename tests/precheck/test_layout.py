"""The slice folders of CI and the host profile's paths."""

from __future__ import annotations

from pathlib import Path

import pytest
from precheck.machine import MIRROR, gaps, profile, stage, subject

from tune_mcp.config.model import ModelConfig
from tune_mcp.precheck import hardware, variables
from tune_mcp.precheck.subject import Needs, Subject, launch_settings


def asking(root: Path, **env: str) -> Subject:
    return subject(root, Needs(env=env))


def ci(root: Path) -> dict[str, str]:
    return {
        "HOME": str(root),
        "OMNI_CI_HOME": str(root / "slice"),
        "XDG_CACHE_HOME": str(root / "slice/.cache"),
        "TORCHINDUCTOR_CACHE_DIR": str(root / "slice/.torchinductor"),
    }


@pytest.mark.rule("ENV-14", "ENV-30", "PRE-02", "PRE-12")
def test_folders_that_are_there_or_can_be_made_are_ok(tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))

    (check,) = variables.layout_checks(asking(tmp_path, **ci(tmp_path)))

    assert (check.id, check.status, check.fix) == ("env.layout", "ok", "")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.rule("HST-11")
def test_the_calibration_slice_must_be_there_itself(tmp_path: Path) -> None:
    made_once = tmp_path / "calibration"
    asked = asking(tmp_path, OMNI_CI_HOME=str(made_once))

    assert gaps(variables.layout_checks(asked, made_once=made_once)) == {
        "env.layout:OMNI_CI_HOME": ("missing", f"mkdir -p {made_once}")
    }
    made_once.mkdir()
    assert gaps(variables.layout_checks(asked, made_once=made_once)) == {}


@pytest.mark.rule("ENV-14", "ENV-24", "ENV-30")
@pytest.mark.parametrize("name", ["XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR"])
@pytest.mark.parametrize("outside", ["elsewhere", "slice/../elsewhere", "slice-two"])
def test_a_cache_outside_the_slice_is_told_with_what_was_expected(tmp_path: Path, name: str, outside: str) -> None:
    expected = ci(tmp_path)[name]
    asked = asking(tmp_path, **ci(tmp_path) | {name: f"{tmp_path}/{outside}"})

    (check,) = variables.layout_checks(asked)

    assert gaps([check]) == {
        f"env.layout:{name}": (
            "mismatch",
            f"set {name}: {expected} under auto_env of models/toy/config.yaml",
        )
    }
    assert f"{tmp_path}/{outside}" in check.detail
    assert expected in check.detail


@pytest.mark.rule("ENV-24")
def test_a_cache_that_one_stage_alone_puts_outside_the_slice_is_told_for_that_stage(tmp_path: Path) -> None:
    apart = stage(env={"TORCHINDUCTOR_CACHE_DIR": "/.torchinductor", "OTHER": "1"})
    asked = subject(tmp_path, Needs(env=ci(tmp_path)), [stage(env={"OTHER": "1"}), apart])

    assert gaps(variables.layout_checks(asked, may_write=lambda _: True)) == {
        "env.layout:TORCHINDUCTOR_CACHE_DIR": (
            "mismatch",
            f"set TORCHINDUCTOR_CACHE_DIR: {tmp_path}/slice/.torchinductor under extra_env of models/toy/config.yaml",
        )
    }


@pytest.mark.rule("ENV-14", "HST-01")
def test_a_slice_of_the_host_s_own_takes_all_that_lies_in_the_model_s_along(tmp_path: Path) -> None:
    config = ModelConfig.model_validate(
        {
            "name": "toy",
            "test_globs": ["tests/*.py"],
            "omni_ci_home": "/ci/slice",
            "auto_env": {
                "XDG_CACHE_HOME": "/ci/slice/.cache",
                "TORCHINDUCTOR_CACHE_DIR": "/ci/slice/.torchinductor",
                "UV_CACHE_DIR": "/ci/slice-of-another/uv",
                "HF_ENDPOINT": MIRROR,
            },
            "metric_sources": {},
        }
    )
    kept = {"UV_CACHE_DIR": "/ci/slice-of-another/uv", "HF_ENDPOINT": MIRROR}

    own = profile(tmp_path, {"omni_ci_home": f"{tmp_path}/own"})
    for host, root in ((None, "/ci/slice"), (own, f"{tmp_path}/own")):
        assert launch_settings(config, host) == {
            "OMNI_CI_HOME": root,
            "XDG_CACHE_HOME": f"{root}/.cache",
            "TORCHINDUCTOR_CACHE_DIR": f"{root}/.torchinductor",
            **kept,
        }


@pytest.mark.rule("ENV-15")
@pytest.mark.parametrize("root", ["/", "slice", "", ".", "/slice/.."])
def test_a_slice_without_a_folder_of_its_own_is_none(tmp_path: Path, root: str) -> None:
    found = gaps(variables.layout_checks(asking(tmp_path, OMNI_CI_HOME=root), may_write=lambda _: True))

    assert found == {
        "env.layout:OMNI_CI_HOME": (
            "mismatch",
            "set OMNI_CI_HOME under auto_env of models/toy/config.yaml to a folder of its own",
        )
    }


@pytest.mark.rule("PRE-12")
def test_folders_without_the_right_to_write_are_told_all_at_once(tmp_path: Path) -> None:
    (tmp_path / "slice").mkdir()

    found = gaps(variables.layout_checks(asking(tmp_path, **ci(tmp_path)), may_write=lambda _: False))

    assert found == {
        f"env.layout:{name}": ("missing", f"chmod u+rwx {tmp_path / 'slice'}")
        for name in ("OMNI_CI_HOME", "XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR")
    }


@pytest.mark.rule("PRE-12")
def test_a_file_in_the_place_of_a_folder_and_a_missing_home_are_gaps(tmp_path: Path) -> None:
    (tmp_path / "slice").write_text("")
    env = {"OMNI_CI_HOME": str(tmp_path / "slice"), "HOME": str(tmp_path / "my home")}

    assert gaps(variables.layout_checks(asking(tmp_path, **env))) == {
        "env.layout:OMNI_CI_HOME": ("mismatch", f"mv {tmp_path}/slice {tmp_path}/slice.old"),
        "env.layout:HOME": ("missing", f"mkdir -p '{tmp_path}/my home'"),
    }


def test_a_plain_machine_has_no_layout_and_no_profile_to_check(tmp_path: Path) -> None:
    assert list(variables.layout_checks(asking(tmp_path, HF_HOME="/nowhere"))) == []
    assert list(hardware.host_paths_checks(asking(tmp_path))) == []


@pytest.mark.rule("HST-04", "PRE-12")
def test_every_path_of_the_profile_that_is_not_there_is_its_own_gap(tmp_path: Path) -> None:
    physical = {"hf_hub": f"{tmp_path}/hf", "speaker_sim": f"{tmp_path}/a sim"}
    asked = subject(tmp_path, Needs(profile=profile(tmp_path, physical)))

    assert gaps(hardware.host_paths_checks(asked)) == {
        "host.paths:physical.hf_hub": ("missing", f"mkdir -p {tmp_path}/hf"),
        "host.paths:physical.speaker_sim": ("missing", f"mkdir -p '{tmp_path}/a sim'"),
    }
    (tmp_path / "hf").mkdir()
    (tmp_path / "a sim").mkdir()
    (check,) = hardware.host_paths_checks(asked)
    assert (check.id, check.status, check.detail) == ("host.paths", "ok", "3 paths of host profile box found")


@pytest.mark.rule("HST-05")
def test_a_checkout_that_the_caller_named_replaces_the_profile_s(tmp_path: Path) -> None:
    elsewhere = profile(tmp_path / "gone", {})

    assert gaps(hardware.host_paths_checks(subject(tmp_path, Needs(profile=elsewhere)))) == {}
    assert gaps(hardware.host_paths_checks(subject(tmp_path / "gone", Needs(profile=elsewhere)))) == {
        "host.paths:repo_root": ("missing", "set repo_root in hosts/box.yaml to the checkout on this machine")
    }
