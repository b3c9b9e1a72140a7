"""Weights and data sets: really there, for the selected stages, and the one command for each that is not."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from precheck.machine import COMMIT, MIRROR, cached, gaps, index, profile, stage, subject

from tune_mcp.config.model import ModelConfig
from tune_mcp.precheck import assets
from tune_mcp.precheck.hub import RepoKind
from tune_mcp.precheck.hub import missing_parts as gaps_of
from tune_mcp.precheck.subject import Needs, Subject
from tune_mcp.session.plan import LaunchSettings

MODEL = "org/voice"
DATA = "org/speech"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
WHOLE = {"config.json": "{}", "model.safetensors.index.json": index(*SHARDS), SHARDS[0]: "w", SHARDS[1]: "w"}


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    return tmp_path / "hf" / "hub"


@pytest.fixture(autouse=True)
def hf_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has the library's command line, which nothing here may run."""
    program = tmp_path / "bin" / "hf"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))


def listed(repo: Path, sizes: Mapping[str, int]) -> None:
    """The listing of the commit that huggingface_hub keeps beside what it downloaded."""
    files = {name: {"size": size, "blob_id": "0" * 40} for name, size in sizes.items()}
    (repo / "trees").mkdir()
    (repo / "trees" / f"{COMMIT}.json").write_text(json.dumps({"format_version": 1, "files": files}))


def asking(root: Path, models: tuple[str, ...] = (MODEL,), datasets: tuple[str, ...] = ()) -> Subject:
    env = {"HF_HOME": str(root / "hf"), "HF_ENDPOINT": MIRROR}
    return subject(root, Needs(env=env, model_ids=models, datasets=datasets), [stage()])


@pytest.mark.rule("PRE-03", "PRE-05", "ENV-07", "ENV-12", "ENV-19")
def test_each_missing_repository_is_one_gap_with_its_own_command(tmp_path: Path, hub: Path) -> None:
    cached(hub, "org/other", {"model.safetensors": "w"})

    found = gaps(assets.hub_checks(asking(tmp_path, (MODEL, "org/other"), (DATA,))))

    assert found == {
        f"hf.model:{MODEL}": (
            "missing",
            f"HF_ENDPOINT={MIRROR} hf download {MODEL} --cache-dir {hub}",
        ),
        f"hf.dataset:{DATA}": (
            "missing",
            f"HF_ENDPOINT={MIRROR} hf download {DATA} --repo-type dataset --cache-dir {hub}",
        ),
    }


@pytest.mark.rule("PRE-03", "ENV-02")
def test_whole_repositories_are_ok(tmp_path: Path, hub: Path) -> None:
    cached(hub, MODEL, WHOLE)
    cached(hub, DATA, {"data/train.arrow": "rows"}, "dataset")

    checks = list(assets.hub_checks(asking(tmp_path, (MODEL,), (DATA,))))

    assert [(check.id, check.status, check.fix) for check in checks] == [
        (f"hf.model:{MODEL}", "ok", ""),
        (f"hf.dataset:{DATA}", "ok", ""),
    ]


@pytest.mark.rule("PRE-03", "PRE-12")
@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"config.json": "{}"}, "no weight file"),
        ({"model.safetensors": ""}, "empty: model.safetensors"),
        ({SHARDS[0]: "w", "model.safetensors.index.json": index(*SHARDS)}, f"shards not there: {SHARDS[1]}"),
        ({SHARDS[0]: "w"}, f"shards not there: {SHARDS[1]}"),
        ({"sub/a.bin": "w", "sub/pytorch_model.bin.index.json": index("b.bin")}, "shards not there: sub/b.bin"),
        (
            {"model.safetensors": "w", "model.safetensors.index.json": '{"weight_'},
            "unreadable: model.safetensors.index.json",
        ),
        ({"model.safetensors.incomplete": "w"}, "no weight file"),
    ],
)
def test_a_model_without_all_of_its_weights_is_missing(hub: Path, files: dict[str, str], said: str) -> None:
    cached(hub, MODEL, files)

    assert gaps_of(hub, "model", MODEL) == [said]


@pytest.mark.parametrize(
    "name",
    [
        "model.nemo", "onnx/model.onnx", "model-q4.gguf", "model.pt", "pytorch_model.bin", "model.safetensors",
        "last.ckpt", "model.pth", "flax_model.msgpack", "tf_model.h5", "utmos.jit", "weights.npz", "engine.plan",
        "encoder.mlpackage/weights", "model",
    ],
)  # fmt: skip
def test_weights_of_any_format_are_weights(hub: Path, name: str) -> None:
    repo = cached(hub, MODEL, {"config.json": "{}", name: "w"})
    assert gaps_of(hub, "model", MODEL) == []

    (repo / "blobs" / f"{1:040x}").write_text("")
    assert gaps_of(hub, "model", MODEL) == [f"empty: {name}"]


@pytest.mark.parametrize(
    ("files", "whole"),
    [
        ({"tokenizer.json": "{}", "tokenizer_config.json": "{}"}, True),
        ({"spiece.model": "s", "special_tokens_map.json": "{}"}, True),
        ({"preprocessor_config.json": "{}", "README.md": "r"}, True),
        ({"qwen.tiktoken": "t"}, True),
        ({"tokenizer.json": "{}", "config.json": "{}"}, False),
        ({"README.md": "r", ".gitattributes": "g"}, False),
        ({"modeling.py": "p"}, False),
    ],
)
def test_a_tokenizer_by_itself_is_whole_and_what_is_left_of_a_cut_download_is_not(
    hub: Path, files: dict[str, str], whole: bool
) -> None:
    cached(hub, MODEL, files)

    assert gaps_of(hub, "model", MODEL) == ([] if whole else ["no weight file"])


def test_a_repository_without_weights_is_whole_by_its_own_listing(hub: Path) -> None:
    repo = cached(hub, MODEL, {"config.json": "{}", "empty.py": ""})
    assert gaps_of(hub, "model", MODEL) == ["no weight file"]

    listed(repo, {"config.json": 2, "empty.py": 0})

    assert gaps_of(hub, "model", MODEL) == []


@pytest.mark.parametrize(
    ("shards", "lacking"),
    [
        (("m-00001-of-00002.gguf", "m-00002-of-00002.gguf"), "m-00002-of-00002.gguf"),
        (("m-00000-of-00002.ckpt", "m-00001-of-00002.ckpt"), "m-00001-of-00002.ckpt"),
    ],
)
def test_a_shard_of_any_format_that_is_not_there_is_named(hub: Path, shards: tuple[str, str], lacking: str) -> None:
    cached(hub, MODEL, dict.fromkeys(shards, "w"))
    assert gaps_of(hub, "model", MODEL) == []

    next((hub / "models--org--voice").rglob(lacking)).unlink()

    assert gaps_of(hub, "model", MODEL) == [f"shards not there: {lacking}"]


def test_config_says_what_a_repository_needs(tmp_path: Path, hub: Path) -> None:
    repo = cached(hub, MODEL, {"config.json": "{}", "fp16/a.bin": "w"})
    listed(repo, {"config.json": 2, "fp16/a.bin": 1, "fp32/a.bin": 1})
    assert gaps_of(hub, "model", MODEL) == ["not downloaded: fp32/a.bin"]

    assert gaps_of(hub, "model", MODEL, ("config.json", "fp16/*")) == []
    assert gaps_of(hub, "model", MODEL, ("fp16/*", "*.nemo")) == ["no file fits *.nemo"]
    assert gaps_of(hub, "model", MODEL, ("fp32/*",)) == ["not downloaded: fp32/a.bin"]
    assert gaps_of(hub, "model", MODEL, ()) == [], "an empty list takes what is there"
    needs = Needs(env={"HF_HOME": str(tmp_path / "hf")}, model_ids=("org/none",), hf_files={"org/none": ("*.nemo",)})
    (found,) = assets.hub_checks(subject(tmp_path, needs, [stage()]))
    assert found.fix == f"hf download org/none --include '*.nemo' --cache-dir {hub}"


def test_a_repository_without_weights_names_the_key_that_says_it_needs_none(tmp_path: Path, hub: Path) -> None:
    cached(hub, MODEL, {"config.json": "{}"})

    (found,) = assets.hub_checks(asking(tmp_path))

    assert found.status == "missing"
    assert "name its files under hf_files in models/toy/config.yaml" in found.detail


def test_a_link_whose_blob_is_gone_is_no_weight(hub: Path) -> None:
    repo = cached(hub, MODEL, {"model.safetensors": "w"})
    next((repo / "blobs").iterdir()).unlink()

    assert gaps_of(hub, "model", MODEL) == ["not downloaded: model.safetensors", "no weight file"]


def test_a_link_to_an_unfinished_blob_is_no_weight(hub: Path) -> None:
    repo = cached(hub, MODEL, {"model.safetensors": "w", "b.safetensors": "w"})
    blob = repo / "blobs" / "f00d.incomplete"
    blob.write_text("half")
    link = repo / "snapshots" / COMMIT / "b.safetensors"
    link.unlink()
    link.symlink_to(blob)

    assert gaps_of(hub, "model", MODEL) == [
        "not downloaded: b.safetensors",
        "download not finished: blobs/f00d.incompl….incomplete",
    ]


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_a_download_that_was_cut_short_is_a_gap_and_its_leftover_is_none(hub: Path, kind: RepoKind) -> None:
    repo = cached(hub, DATA, {"model.safetensors": "w"}, kind)
    cut = repo / "blobs" / "abcdef0123456789.incomplete"
    cut.write_text("half")
    assert gaps_of(hub, kind, DATA) == ["download not finished: blobs/abcdef012345….incomplete"]

    cut.with_suffix("").write_text("whole")

    assert gaps_of(hub, kind, DATA) == []


def test_the_branch_decides_which_snapshot_counts(hub: Path) -> None:
    cached(hub, MODEL, {"model.safetensors": "w"}, commit="a" * 40)
    repo = cached(hub, MODEL, {"config.json": "{}"}, commit="b" * 40)
    assert gaps_of(hub, "model", MODEL) == ["no weight file"]

    (repo / "refs" / "main").write_text("c" * 40)
    assert gaps_of(hub, "model", MODEL) == ["no snapshot of main"]

    (repo / "refs" / "main").unlink()
    assert gaps_of(hub, "model", MODEL) == ["no snapshot of main"], "a test loads main; some snapshot is not it"


@pytest.mark.rule("PRE-03")
def test_the_listing_that_the_library_kept_names_what_is_missing_and_what_was_cut(hub: Path) -> None:
    repo = cached(hub, MODEL, {"model.safetensors": "weights", "config.json": "{}"})
    listed(repo, {"model.safetensors": 7, "config.json": 2})
    assert gaps_of(hub, "model", MODEL) == []

    (repo / "snapshots" / COMMIT / "config.json").unlink()
    (repo / "blobs" / f"{0:040x}").write_text("wei")

    assert gaps_of(hub, "model", MODEL) == [
        "not downloaded: config.json",
        "not as long as announced: model.safetensors",
    ]


def test_the_cache_is_read_without_a_network_and_without_a_trace(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object) -> None:
        raise AssertionError("a look at the cache went to the network")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    cached(hub, MODEL, WHOLE)
    before = sorted((path, path.lstat().st_mtime_ns) for path in hub.rglob("*"))

    assert gaps_of(hub, "model", MODEL) == []
    assert gaps_of(hub, "dataset", "org/not-there") == [f"not in {hub}"]
    assert sorted((path, path.lstat().st_mtime_ns) for path in hub.rglob("*")) == before


def test_a_name_that_no_repository_can_have_is_a_mistake_of_the_config(tmp_path: Path, hub: Path) -> None:
    hub.mkdir(parents=True)
    (hub / "models--a--b--c").mkdir()

    found = gaps(assets.hub_checks(asking(tmp_path, ("a/b/c",))))

    assert found == {"hf.model:a/b/c": ("mismatch", "correct 'a/b/c' in models/toy/config.yaml")}


@pytest.mark.rule("ENV-29")
def test_a_repository_that_somebody_is_downloading_is_busy_and_its_process_is_named(tmp_path: Path, hub: Path) -> None:
    repo = cached(hub, MODEL, {"model.safetensors": "w"})
    (repo / "blobs" / "abcdef0123456789.incomplete").write_text("half")
    lock = hub / ".locks" / repo.name / "abcdef0123456789.lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        found = gaps(assets.hub_checks(asking(tmp_path)))
        assert found == {f"hf.model:{MODEL}": ("busy", f"tail --pid={os.getpid()} -f /dev/null")}

    assert gaps(assets.hub_checks(asking(tmp_path)))[f"hf.model:{MODEL}"][0] == "missing"


@pytest.mark.rule("PRE-05", "ENV-04")
@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_the_command_is_one_that_the_installed_library_understands(tmp_path: Path, kind: RepoKind) -> None:
    words = shlex.split(assets.download(asking(tmp_path), kind, MODEL))
    settings = [word for word in words if "=" in word]
    program, verb, repo, *flags = words[len(settings) :]
    hf = Path(sys.executable).with_name(program)
    told = subprocess.run([hf, verb, "--help"], capture_output=True, text=True, check=True, timeout=60).stdout

    assert settings == [f"HF_ENDPOINT={MIRROR}"]
    assert (program, verb, repo) == ("hf", "download", MODEL)
    assert [flag for flag in flags if flag.startswith("--") and flag not in told] == []


def test_without_a_command_line_on_the_path_the_one_beside_us_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert assets.download(asking(tmp_path), "model", MODEL).split()[1] == str(Path(sys.executable).with_name("hf"))


def test_an_index_of_something_else_names_no_shards(hub: Path) -> None:
    cached(hub, MODEL, {"model.safetensors": "w", "faiss.index.json": '{"dim": 4}', "list.index.json": "[]"})

    assert gaps_of(hub, "model", MODEL) == []


def test_an_empty_data_set_is_a_gap(hub: Path) -> None:
    cached(hub, DATA, {}, "dataset")

    assert gaps_of(hub, "dataset", DATA) == ["no file in its snapshot"]


def test_a_repository_that_cannot_be_read_is_unknown(
    tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(*_: object) -> list[str]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(assets, "missing_parts", unreadable)

    assert gaps(assets.hub_checks(asking(tmp_path))) == {f"hf.model:{MODEL}": ("unknown", f"ls -la {hub}")}


@pytest.mark.rule("PRE-04", "MOD-08")
def test_only_the_selected_stages_ask_for_weights() -> None:
    config = ModelConfig.model_validate(
        {
            "name": "toy",
            "test_globs": ["tests/*.py"],
            "hf_model_id": "org/base",
            "hf_model_ids_by_test": {"test_tts_ci.py": ["org/tts", "org/asr"]},
            "metric_sources": {
                "test_tts_ci.py": {
                    "calibration_presets": {"moss": {"constant_filter": "^MOSS", "hf_model_ids": ["org/moss"]}}
                }
            },
        }
    )
    plain, tts, own = (
        stage("tests/test_a_ci.py"),
        stage("tests/test_tts_ci.py"),
        stage("tests/test_b_ci.py", ids=("org/own",)),
    )
    moss = tts.model_copy(update={"calibration_preset": "moss"})

    assert Needs.of(config, None, [plain]).model_ids == ("org/base",)
    assert Needs.of(config, None, [tts, tts]).model_ids == ("org/tts", "org/asr")
    assert Needs.of(config, None, [moss, own]).model_ids == ("org/moss", "org/own")


@pytest.mark.rule("PRE-04")
def test_a_test_that_names_its_data_set_needs_no_other(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench/prepare.py").write_text('DATASETS = {"speech-50": "org/speech", "video": "org/Video_ci"}\n')
    (tmp_path / "tests/direct.py").write_text('REPO = "org/speech"\n')
    (tmp_path / "tests/key.py").write_text('from bench.prepare import DATASETS\nREPO = DATASETS["video"]\n')
    (tmp_path / "tests/silent.py").write_text("from bench.prepare import DATASETS\n")
    (tmp_path / "tests/broken.py").write_text("def (\n")
    both = ("org/speech", "org/Video_ci")

    def needed(*tests: str) -> tuple[str, ...]:
        selected = {f"tests/{name}.py" for name in tests}
        return assets.needed_datasets(tmp_path, selected, {"tests/direct.py", "tests/key.py"} - selected, both)

    assert needed("direct") == ("org/speech",)
    assert needed("key") == ("org/Video_ci",)
    assert needed("direct", "key") == both
    assert needed("direct", "silent") == both
    assert needed("broken") == needed("gone") == both
    assert assets.needed_datasets(tmp_path, {"tests/direct.py"}, set(), both) == both
    assert assets.needed_datasets(tmp_path, set(), set(), ()) == ()


@pytest.mark.rule("PRE-04")
def test_the_model_s_other_tests_claim_their_own_data_sets(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    for name in ("a", "b"):
        (tmp_path / f"tests/{name}_ci.py").write_text(f'REPO = "org/{name}"\n')
    needs = Needs(env={"HF_HOME": "/nowhere"}, datasets=("org/a", "org/b", "org/c"), test_globs=("tests/*_ci.py",))

    def asked_for(*tests: str) -> list[str]:
        return [check.id for check in assets.hub_checks(subject(tmp_path, needs, [stage(test) for test in tests]))]

    assert asked_for("tests/a_ci.py") == ["hf.dataset:org/a", "hf.dataset:org/c"]
    assert asked_for("tests/a_ci.py", "tests/b_ci.py") == [f"hf.dataset:org/{name}" for name in "abc"]


@pytest.mark.rule("HST-04", "HST-12")
def test_the_host_s_cache_replaces_the_model_s_and_a_link_is_told(tmp_path: Path) -> None:
    real = tmp_path / "real"
    cached(real / "hub", MODEL, {"model.safetensors": "w"})
    (tmp_path / "link").symlink_to(real)
    config = ModelConfig.model_validate(
        {
            "name": "toy",
            "test_globs": ["tests/*.py"],
            "hf_model_id": MODEL,
            "auto_env": {"HF_HOME": "/nowhere/hf"},
            "metric_sources": {},
        }
    )
    for folder, ids in ((real, [f"hf.model:{MODEL}"]), (tmp_path / "link", ["hf.home", f"hf.model:{MODEL}"])):
        needs = Needs.of(config, profile(tmp_path, {"hf_hub": str(folder)}), [stage()])
        checks = list(assets.hub_checks(subject(tmp_path, needs, [stage()])))
        assert [check.id for check in checks] == ids
        assert gaps(checks) == {}
    assert checks[0].status == "warn"
    assert checks[0].fix == f"set physical.hf_hub: {real} in the host profile"


@pytest.mark.rule("HST-12")
def test_a_link_inside_the_cache_s_home_is_told_too(tmp_path: Path, hub: Path) -> None:
    real = tmp_path / "disk"
    cached(real, MODEL, {"model.safetensors": "w"})
    hub.parent.mkdir()
    hub.symlink_to(real)

    (link, asset) = assets.hub_checks(asking(tmp_path))

    assert (link.id, link.status, asset.status) == ("hf.home", "warn", "ok")
    assert link.fix == f"set auto_env.HF_HUB_CACHE: {real} in models/toy/config.yaml"


def test_without_hf_home_the_library_s_own_default_counts(tmp_path: Path) -> None:
    assert Needs(env={"HOME": "/h"}).hub() == Path("/h/.cache/huggingface/hub")
    assert Needs(env={"HOME": "/h", "XDG_CACHE_HOME": "/x"}).hub() == Path("/x/huggingface/hub")
    assert Needs(env={"HF_HOME": "/f", "HF_HUB_CACHE": "/c"}).hub() == Path("/c")


def test_no_endpoint_is_made_up(tmp_path: Path) -> None:
    needs = Needs(env={"HF_HOME": "/f"}, model_ids=(MODEL,))

    assert assets.download(subject(tmp_path, needs), "model", MODEL) == (f"hf download {MODEL} --cache-dir /f/hub")


def test_a_model_that_names_nothing_has_no_such_check(tmp_path: Path) -> None:
    assert list(assets.hub_checks(subject(tmp_path, stages=[stage()]))) == []


def test_data_sets_that_nobody_could_look_at_are_a_warning(tmp_path: Path) -> None:
    needs = Needs.of_plan(LaunchSettings(), [stage()], "the config is gone")

    (check,) = assets.hub_checks(subject(tmp_path, needs))

    assert (check.id, check.status) == ("hf.dataset", "warn")
    assert "the config is gone" in check.detail
