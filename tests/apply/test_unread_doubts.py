"""A value that no assertion explains is a person's to decide, in whichever direction it moves."""

from __future__ import annotations

import pytest

from tune_mcp.apply.doubts import DoubtKind, find
from tune_mcp.config.loader import ConfigPlaces
from tune_mcp.config.stages_yaml import load_stages
from tune_mcp.contract.apply_plan import Direction
from tune_mcp.discover.assertions import Unread, UnreadKind
from tune_mcp.observe.worst import Worst

SPEED = load_stages(ConfigPlaces.resolve(None, None).config_path("tts").with_name("stages.yaml"))["qwen3_asr_speed"]


def kinds(direction: Direction, kind: UnreadKind) -> set[DoubtKind]:
    worst = Worst(SPEED, "throughput_qps", (3.0, 2.5, 2.0), 2.0, 2.0, 2.0)
    return {doubt.kind for doubt in find(worst, 2.25, direction, Unread("a decorator", kind), "", 3)}


@pytest.mark.parametrize("direction", [Direction.TIGHTENS, Direction.LOOSENS, Direction.FIRST, Direction.UNKNOWN])
@pytest.mark.parametrize("kind", [UnreadKind.UNCLEAR, UnreadKind.DISAGREE, UnreadKind.TWO_SIDED])
def test_a_speed_threshold_with_an_unread_assertion_is_asked_also_where_it_loosens(
    direction: Direction, kind: UnreadKind
) -> None:
    assert kinds(direction, kind) == {DoubtKind.UNREAD}


def test_what_no_test_asserts_is_not_asked_again_where_it_loosens_but_is_where_it_tightens() -> None:
    assert kinds(Direction.LOOSENS, UnreadKind.NOT_ASSERTED) == set()
    assert kinds(Direction.TIGHTENS, UnreadKind.NOT_ASSERTED) == {DoubtKind.UNREAD}
    assert kinds(Direction.EQUAL, UnreadKind.UNCLEAR) == set()
