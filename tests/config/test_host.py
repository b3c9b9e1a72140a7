"""Host profiles: paths inside one machine, nothing about how it is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from tune_mcp.config.host import HostProfile
from tune_mcp.config.lanes import Quiet
from tune_mcp.config.yaml_source import read_yaml
from tune_mcp.errors import Refusal

OLDER = """\
name: lab
hostname: lab-box
repo_root: /data/repo
venv_python: /data/venv/bin/python
physical:
  hf_hub: /cache/hf
  speaker_sim: /cache/sim
  omni_ci_home: /ci/home
precheck_checklist:
  venv_exists: /data/venv/bin/python
  steps:
    - "anything"
speaker_similarity_bootstrap:
  warm_cache:
    env:
      HF_HUB_DISABLE_XET: "1"
    hf_token: "source ~/.profile"
    command: |
      cd /data/repo
      python -m warm
agent_policy:
  env_check: report_missing_first
  poll_interval_max_s: 120
handoff:
  run_dirs: []
"""


def load(tmp_path: Path, text: str) -> HostProfile:
    path = tmp_path / "lab.yaml"
    path.write_text(text)
    source = read_yaml(path)
    host = source.check(HostProfile, source.data)
    if host is None:
        raise source.refusal()
    return host


@pytest.mark.rule("HST-04", "HST-06")
def test_an_older_profile_loads_and_gives_its_environment(tmp_path: Path) -> None:
    host = load(tmp_path, OLDER)
    assert host.env() == {
        "HF_HOME": "/cache/hf", "SEEDTTS_SIM_CACHE_DIR": "/cache/sim", "OMNI_CI_HOME": "/ci/home",
    }  # fmt: skip
    assert (host.repo_root, host.venv_python) == ("/data/repo", "/data/venv/bin/python")
    assert "python -m warm" in host.speaker_similarity_bootstrap["warm_cache"].command


@pytest.mark.rule("HST-06", "HST-07")
@pytest.mark.parametrize(
    ("change", "key"),
    [
        (("repo_root: /data/repo\n", ""), "repo_root"),
        (("hostname: lab-box\n", ""), "hostname"),
        (("name: lab\n", "name: lab\ndocker_run: docker run x\n"), "docker_run"),
        (("physical:\n", "physical:\n  volumes: [/a:/b]\n"), "physical.volumes"),
        (("hf_hub: /cache/hf", "hf_hub: cache/hf"), "physical.hf_hub"),
        (("poll_interval_max_s: 120", "poll_interval_max_s: 121"), "agent_policy.poll_interval_max_s"),
        (("name: lab\n", "name: lab\ncleanup_command: rm -rf x\n"), "cleanup_command"),
        (("name: lab\n", "name: lab\nallow_mig: perhaps\n"), "allow_mig"),
    ],
)
def test_a_profile_that_lacks_or_adds_something_names_the_key(
    tmp_path: Path, change: tuple[str, str], key: str
) -> None:
    with pytest.raises(Refusal) as caught:
        load(tmp_path, OLDER.replace(*change))
    assert caught.value.details["key"] == key


@pytest.mark.rule("ENV-26")
@pytest.mark.parametrize(
    ("change", "key"),
    [
        (('HF_HUB_DISABLE_XET: "1"', "HF_TOKEN: hunter2"), "env.HF_TOKEN"),
        (('HF_HUB_DISABLE_XET: "1"', "ALL_PROXY: socks5://hunter2:1080"), "env.ALL_PROXY"),
        (('HF_HUB_DISABLE_XET: "1"', "HF_ENDPOINT: https://u:hunter2@mirror"), "env.HF_ENDPOINT"),
        (("python -m warm", "https_proxy=http://u:hunter2@proxy:1 python -m warm"), "command"),
    ],
)
def test_a_command_that_is_printed_holds_no_secret(tmp_path: Path, change: tuple[str, str], key: str) -> None:
    with pytest.raises(Refusal) as caught:
        load(tmp_path, OLDER.replace(*change))

    assert caught.value.details["key"] == f"speaker_similarity_bootstrap.warm_cache.{key}"
    assert "hunter2" not in caught.value.text() + str(caught.value.data())


@pytest.mark.rule("GPU-08")
@pytest.mark.parametrize(
    "words",
    ["bash, .github/scripts/delete_gpu_process.sh", "bash, -c, 'cd .github/scripts && ./delete_gpu_process.sh || :'"],
)
def test_the_plain_form_of_the_projects_cleanup_is_refused(tmp_path: Path, words: str) -> None:
    """It leaves orphans with 70 GiB and more on the GPUs behind."""
    whole = load(tmp_path, f"{OLDER}cleanup_command: [bash, .github/scripts/delete_gpu_process.sh, --kill-orphans]\n")
    with pytest.raises(Refusal, match="--kill-orphans") as caught:
        load(tmp_path, f"{OLDER}cleanup_command: [{words}]\n")

    assert whole.cleanup_command[-1] == "--kill-orphans"
    assert caught.value.details["key"] == "cleanup_command"


def test_a_profile_cleans_nothing_up_and_takes_no_split_gpu_unless_it_says_so(tmp_path: Path) -> None:
    host = load(tmp_path, OLDER)

    assert (host.cleanup_command, host.allow_mig) == ((), False)
    assert load(tmp_path, OLDER + "allow_mig: true\n").allow_mig


def test_quiet_decides_only_where_the_profile_has_it_and_only_with_limits_that_can_be_measured(tmp_path: Path) -> None:
    given = load(tmp_path, OLDER + "quiet: {foreign_cores: 0.25, window_s: 60}\n").placement().quiet
    usual = load(tmp_path, OLDER + "quiet: {}\n").quiet

    assert load(tmp_path, OLDER).placement().quiet is None
    assert given is not None and (given.foreign_cores, given.window_s, given.step_s) == (0.25, 60, 5)
    assert usual is not None and (usual.foreign_cores, usual.window_s) == (0.1, 30)
    assert (Quiet(window_s=2).step_s, Quiet(window_s=12).step_s, Quiet(window_s=600).step_s) == (0.5, 2, 5)


@pytest.mark.parametrize(
    "what",
    [
        "{foreign_cores: 0}",
        "{foreign_cores: -1}",
        "{foreign_cores: .inf}",
        "{window_s: 1}",
        "{windows: 30}",
        "[30]",
        "30",
    ],
)
def test_a_limit_that_means_nothing_is_refused_with_its_key(tmp_path: Path, what: str) -> None:
    with pytest.raises(Refusal) as caught:
        load(tmp_path, f"{OLDER}quiet: {what}\n")

    assert str(caught.value.details["key"]).startswith("quiet")
