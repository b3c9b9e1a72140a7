"""What a caller may write for a set of stages."""

from __future__ import annotations

import pytest

from tune_mcp.config.stages import Display, Stage, StageMetric, StageTable
from tune_mcp.discover.aliases import aliases, expand
from tune_mcp.errors import Code, Refusal


def stage(test: str, base: str, group: str, preset: str | None = None, variant: str | None = None) -> Stage:
    key = "_".join(part for part in (base, preset, variant, group) if part)
    metric = StageMetric(source="X", worst="max", display=Display(label="x"))
    return Stage(
        key=key, test=f"tests/{test}.py", group=group, calibration_preset=preset, variant=variant,
        test_file_sha256="0", metrics={} if group == "docs" else {"m": metric},
    )  # fmt: skip


def table(*stages: Stage) -> StageTable:
    return {stage.key: stage for stage in stages}


TTS = table(
    stage("test_asr", "qwen3_asr", "wer"),
    stage("test_asr", "qwen3_asr", "speed"),
    *(
        stage("test_tts", "tts", group, preset, variant)
        for variant, groups in (("nonstream", ("wer", "similarity", "utmos", "speed")), ("stream", ("wer", "speed")))
        for preset in ("higgs", "moss")
        for group in groups
    ),
)
OMNI = table(*(stage(f"test_{b}", b, g) for b in ("mmmu", "mmmu_talker", "tts") for g in ("accuracy", "speed")))


@pytest.mark.rule("STG-03", "STG-04", "TTS-02", "TTS-11")
def test_presets_and_variants_have_aliases_of_their_own() -> None:
    assert {alias: len(keys) for alias, keys in aliases(TTS).items()} == {
        "ALL": 14, "qwen3_asr": 2, "tts": 12, "tts_higgs": 6, "tts_moss": 6, "tts_nonstream": 8, "tts_stream": 4,
        "tts_higgs_nonstream": 4, "tts_higgs_stream": 2, "tts_moss_nonstream": 4, "tts_moss_stream": 2,
        "@wer": 5, "@speed": 5, "@similarity": 2, "@utmos": 2,
    }  # fmt: skip
    assert not any(key.startswith("qwen3_asr") for key in expand(["tts"], TTS))


@pytest.mark.rule("STG-03", "DSC-11")
def test_a_variant_that_leaves_its_own_name_out_is_found_by_its_base() -> None:
    def plain(base: str, variant: str) -> Stage:
        return stage("test_meeting", base, "speed").model_copy(update={"variant": variant})

    meeting = table(
        plain("meeting", "movies"),
        plain("long_meeting", "long"),
        stage("test_meeting", "meeting", "speed", None, "stream"),
    )

    assert expand(["meeting"], meeting) == ("meeting_speed", "meeting_stream_speed")
    assert expand(["long_meeting"], meeting) == ("long_meeting_speed",)
    assert expand(["meeting_stream"], meeting) == ("meeting_stream_speed",)
    assert not any("speed_" in alias for alias in aliases(meeting))


@pytest.mark.rule("STG-01", "STG-02")
def test_tokens_come_back_in_catalogue_order_without_doubles() -> None:
    found = expand(["@speed,mmmu", " mmmu_speed  tts_accuracy ", ""], OMNI)
    assert found == ("mmmu_accuracy", "mmmu_speed", "mmmu_talker_speed", "tts_accuracy", "tts_speed")
    assert expand(["ALL"], OMNI) == tuple(OMNI)


@pytest.mark.rule("STG-01", "STG-02", "STG-07", "TTS-10", "SCP-04")
@pytest.mark.parametrize(
    ("token", "near"),
    [
        ("@nope", "@speed"), ("mmmu_acuracy", "mmmu_accuracy"), ("all", "ALL"), ("MMMU", "mmmu"),
        ("tests/test_mmmu.py", ""), ("mmmu,zzz", ""), ("@similarity", ""),
    ],
)  # fmt: skip
def test_an_unknown_token_is_refused_with_near_matches(token: str, near: str) -> None:
    with pytest.raises(Refusal) as caught:
        expand([token], OMNI)
    assert caught.value.code is Code.UNKNOWN_STAGE
    assert caught.value.rules == ("STG-01",)
    assert near in caught.value.next


@pytest.mark.rule("STG-01")
@pytest.mark.parametrize("tokens", [[], [""], [",", " , "]])
def test_asking_for_nothing_is_refused(tokens: list[str]) -> None:
    with pytest.raises(Refusal) as caught:
        expand(tokens, OMNI)
    assert caught.value.code is Code.UNKNOWN_STAGE


def test_all_of_an_empty_table_is_refused() -> None:
    with pytest.raises(Refusal, match="table is empty"):
        expand(["ALL"], {})


def test_a_docs_stage_of_another_file_does_not_join_the_alias_of_a_base() -> None:
    found = table(stage("test_docs", "tts", "docs"), stage("test_tts", "tts", "wer"))
    assert aliases(found)["tts"] == ("tts_wer",)
    assert expand(["tts_docs"], found) == ("tts_docs",)
    assert aliases(found)["@docs"] == ("tts_docs",)


def test_a_stage_key_beats_an_alias_of_the_same_name() -> None:
    found = table(stage("test_a", "a", "wer"), stage("test_b", "a_wer", "speed"))
    assert expand(["a_wer"], found) == ("a_wer",)
