"""signatures.yaml: the shipped table is whole, a model adds to it, and a mistake in it is reported by line and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from tune_mcp.config.loader import ConfigPlaces
from tune_mcp.config.signatures import OwnSignatures, read_own, rules
from tune_mcp.errors import Code, Refusal

SHIPPED = rules()
OWN = """
fatal:
  - {name: the toy broke, words: [toy is broken], cause: it fell, remedy: glue it, still_s: 1}
suspicious:
  - {name: disk full, words: [No space left on device], cause: full, remedy: our own remedy}
startup: {after_s: 90, up: [{words: [toy is up]}], remedy: [wait]}
no_progress: {stop_after_s: 1200}
room: {log_mib: 10}
roles: [{role: toy, pattern: toy}]
"""


@pytest.mark.rule("WDG-01")
def test_every_shipped_signature_tells_cause_and_remedy_and_has_its_limits() -> None:
    for one in SHIPPED.fatal + SHIPPED.suspicious:
        assert one.cause and one.remedy and one.still_s, one.name
    assert all((one.still_s or 0) <= 0.5 and one.infrastructure for one in SHIPPED.fatal)
    assert all((one.still_s or 0) >= 10 for one in SHIPPED.suspicious)
    assert (SHIPPED.startup_after_s, SHIPPED.alert_after_s, SHIPPED.stop_after_s) == (60, 300, 900)


@pytest.mark.rule("WDG-07", "WDG-12")
def test_no_remedy_is_a_threshold() -> None:
    """A slow or crashing environment is fixed; calibration must never be talked into another number."""
    remedies = [one.remedy for one in SHIPPED.fatal + SHIPPED.suspicious] + list(SHIPPED.startup.remedy)
    assert remedies and not [text for text in remedies if "threshold" in text or "baseline" in text]


@pytest.mark.rule("FAIL-01", "FAIL-02", "FAIL-03", "FAIL-04", "FAIL-07", "WDG-10")
@pytest.mark.parametrize(
    ("line", "cause", "remedy"),
    [
        ("sh: OMNI_CI_HOME: unbound variable", "OMNI_CI_HOME", "ci_env.sh"),
        (
            "Capturing batches (bs=64): 10%|█ | 3/36 [01:12<13:00, 24.1s/it]",
            "TORCHINDUCTOR_CACHE_DIR",
            ".torchinductor",
        ),
        ("huggingface_hub.errors.LocalEntryNotFoundError: Cannot find", "HF_HOME", "HOME must be /github/home"),
        ("Downloading shards:   0%|          | 0/15", "fetched again", "/github/home/.cache/huggingface"),
        ("worker-1 torch.OutOfMemoryError: CUDA out of memory", "being torn down", "tried again"),
    ],
)
def test_a_known_mistake_is_told_with_its_cause_and_its_remedy(line: str, cause: str, remedy: str) -> None:
    found = [one for one in SHIPPED.fatal + SHIPPED.suspicious if one.fits(line)]
    assert any(cause in one.cause and remedy in one.remedy for one in found)


@pytest.mark.parametrize(
    "line",
    [
        "Capturing batches (bs=1): 100%|██████████| 36/36 [00:07<00:00,  5.1it/s]",
        "Loading safetensors checkpoint shards: 100% Completed | 15/15 [00:30<00:00,  2.01s/it]",
        "took 137 ms", "exit code 0", "Connection refused", "Address already in use", "INFO: 200 OK",
    ],
)  # fmt: skip
def test_everyday_lines_fit_nothing(line: str) -> None:
    assert [one.name for one in SHIPPED.fatal + SHIPPED.suspicious if one.fits(line)] == []


def place(tmp_path: Path, text: str) -> ConfigPlaces:
    folder = tmp_path / "models/toy"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("test_globs: [t]\nmetric_sources: {}\n")
    (folder / "signatures.yaml").write_text(text)
    return ConfigPlaces((tmp_path,))


@pytest.mark.rule("WDG-01", "MOD-02")
def test_a_model_adds_replaces_and_sets_limits(tmp_path: Path) -> None:
    own = place(tmp_path, OWN).signatures("toy")
    both = rules(OwnSignatures.model_validate_json(own.model_dump_json()))  # as it travels in plan and job

    assert both == rules(own)
    assert both.fatal[0].name == "the toy broke" and both.fatal[1:] == SHIPPED.fatal
    assert [one.remedy for one in both.suspicious if one.name == "disk full"] == ["our own remedy"]
    assert len(both.suspicious) == len(SHIPPED.suspicious)
    assert (both.startup_after_s, both.alert_after_s, both.stop_after_s, both.log_mib) == (90, 300, 1200, 10)
    assert both.startup.remedy == ("wait",) and len(both.startup.up) == len(SHIPPED.startup.up) + 1
    role = both.role("python toy.py")
    assert role is not None and role.role == "toy"


def test_a_model_without_a_file_has_the_shipped_rules() -> None:
    assert rules(read_own(None)) == SHIPPED


@pytest.mark.rule("MOD-02")
@pytest.mark.parametrize(
    ("old", "new", "line", "key"),
    [
        ("words: [toy is broken]", "words: [toy]", 3, "fatal.0.words"),
        ("words: [toy is broken]", "words: []", 3, "fatal.0.words"),
        ("cause: it fell, ", "", 3, "fatal.0.cause"),
        ("still_s: 1", "still_s: soon", 3, "fatal.0.still_s"),
        ("name: disk full", "name: the toy broke", 5, "suspicious.0.name"),
        ("pattern: toy", "pattern: '('", 9, "roles.0.pattern"),
        ("stop_after_s: 1200", "alert_after_s: 9, stop_after_s: 9", 7, "no_progress.stop_after_s"),
        ("log_mib", "log_gib", 8, "room.log_gib"),
    ],
)
def test_a_mistake_is_refused_with_file_line_and_key(tmp_path: Path, old: str, new: str, line: int, key: str) -> None:
    assert old in OWN
    with pytest.raises(Refusal) as error:
        place(tmp_path, OWN.replace(old, new)).signatures("toy")
    refusal = error.value
    assert (refusal.code, refusal.details["line"], refusal.details["key"]) == (Code.INVALID_CONFIG, line, key)
    assert "signatures.yaml" in str(refusal.details["file"])


@pytest.mark.rule("MOD-02")
def test_a_stop_shorter_than_the_shipped_alert_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal) as error:
        place(tmp_path, "no_progress: {stop_after_s: 100}\n").signatures("toy")
    assert error.value.details["key"] == "no_progress.stop_after_s"


@pytest.mark.rule("FAIL-02", "FAIL-03")
@pytest.mark.parametrize(
    "line",
    [
        "router: worker http://127.0.0.1:3001 is unhealthy",
        "RuntimeError: managed worker 1 exited before becoming healthy (exit_code=1)",
        "router workers did not become fully routable",
    ],
)
def test_a_dead_worker_is_no_wrong_slice_and_no_cold_cache(line: str) -> None:
    found = [one for one in SHIPPED.fatal + SHIPPED.suspicious if one.fits(line)]
    assert found
    assert not [
        one for one in found for word in ("OMNI_CI_HOME", "_CACHE_DIR", "JIT") if word in one.cause + one.remedy
    ]
