"""The dashboard in a real browser: inside a client that shows MCP Apps, and as a file on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import toy
from browser.devtools import Page

from tune_mcp.contract.status import CurrentWork, StatusReply
from tune_mcp.server import dashboard
from tune_mcp.verbs.status import status

HOST = Path(__file__).with_name("app_host.html")
LOG = ("collected 2 items", "<b>POST /v1/audio/speech</b> 200 OK")
INSIDE = 'document.querySelector("iframe").contentDocument'


@pytest.fixture(scope="session")
def statuses(tmp_path_factory: pytest.TempPathFactory) -> tuple[StatusReply, StatusReply]:
    """The same run at work and at its end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNE_LOCK_DIR", str(tmp_path_factory.mktemp("host")))
        project = toy.make_toy(tmp_path_factory.mktemp("dashboard") / "repo")
        end = status(project, toy.finished_run(project, repeats=3).run_id)
    work = CurrentWork(test=toy.TEST_KEY, repeat=3, attempt=1, phase="pytest", since="2026-04-23T05:00:00Z")
    running = end.model_copy(
        update={
            "state": "running", "terminal": False, "missing_total": 2, "current": work, "eta_s": (120, 300),
            "stages": ("toy_accuracy: ✓△— (1/3 strict, expected=4)", "toy_speed: ✓✗— (1/3 strict)"),
            "strict_ready": "0/2", "alerts": ("the log has not grown for 600 s",),
        }
    )  # fmt: skip
    return running, end


def hosted(folder: Path, statuses: tuple[StatusReply, StatusReply]) -> Path:
    facts = {"page": dashboard.page(), "log": LOG, "statuses": [one.facts() for one in statuses]}
    path = folder / "host.html"
    path.write_text(HOST.read_text().replace("/*FACTS*/null", json.dumps(facts).replace("<", "\\u003c")))
    return path


def test_in_a_client_it_shows_the_result_and_asks_on_until_the_run_is_over(
    page: Page, statuses: tuple[StatusReply, StatusReply], tmp_path: Path
) -> None:
    page.open(hosted(tmp_path, statuses), 760)

    assert page.ask("ended") is True
    calls = page.ask("calls")
    run_id = statuses[1].run_id
    assert calls[0] == ["status", {"run_id": run_id, "wait_s": 0}]
    assert [name for name, _ in calls] == ["status", "tail_pytest"]
    assert page.ask(f'{INSIDE}.getElementById("strict").textContent') == "STRICT 2/2 stages"
    assert page.ask(f'{INSIDE}.getElementById("state").textContent') == "finished"
    assert page.ask(f'{INSIDE}.getElementById("log").textContent') == "\n".join(LOG)
    assert page.ask(f"{INSIDE}.documentElement.dataset.theme") == "dark"
    assert "ui/notifications/size-changed" in page.ask("heard")
    assert page.complaints() == []


MEDIANS = ("left 1.00 of 3", "right 1.21 of 3, stands apart")


def on_lanes(now: StatusReply) -> StatusReply:
    """Two repeats run side by side, and each lane has measured some."""
    assert now.current
    left = now.current.model_copy(update={"lane": "left"})
    right = left.model_copy(update={"lane": "right", "repeat": 2, "attempt": 2})
    return now.model_copy(update={"current": left, "lanes": (left, right), "lane_medians": MEDIANS})


def test_in_a_client_and_as_a_file_lanes_are_shown_with_what_runs_there_and_their_medians(
    page: Page, statuses: tuple[StatusReply, StatusReply], tmp_path: Path
) -> None:
    now = on_lanes(statuses[0])
    page.open(hosted(tmp_path, (now, now.model_copy(update={"lane_medians": (), "terminal": True}))), 760)
    assert page.ask("ended") is True
    inside = {name: page.ask(f'{INSIDE}.getElementById("{name}").textContent') for name in ("work", "lanes")}
    made = tmp_path / "dashboard.html"
    made.write_text(dashboard.page_of(now, LOG))
    page.open(made, 390)
    as_a_file = {name: page.ask(f'document.getElementById("{name}").textContent') for name in ("work", "lanes")}

    for shown in (inside, as_a_file):
        for words in ("left: test_toy_ci run 3", "right: test_toy_ci run 2 attempt 2: pytest since "):
            assert words in shown["work"]
        assert shown["lanes"].endswith("; ".join(MEDIANS)), "a poll whose medians did not move leaves them out"
    assert page.ask("document.documentElement.scrollWidth") == 390


def test_in_a_client_what_ran_is_gone_when_the_run_is_over(
    page: Page, statuses: tuple[StatusReply, StatusReply], tmp_path: Path
) -> None:
    page.open(hosted(tmp_path, (on_lanes(statuses[0]), statuses[1])), 760)

    assert page.ask("ended") is True
    assert page.ask(f'{INSIDE}.getElementById("work").textContent') == ""


@pytest.mark.parametrize("width", [390, 1280])
def test_as_a_file_it_shows_the_run_and_nothing_sticks_out(
    page: Page, statuses: tuple[StatusReply, StatusReply], tmp_path: Path, width: int
) -> None:
    made = tmp_path / "dashboard.html"
    made.write_text(dashboard.page_of(statuses[0], LOG))
    page.open(made, width)

    assert page.ask("document.documentElement.scrollWidth") == width
    assert page.ask('[...document.querySelectorAll(".cell")].map(one => one.textContent).join("")') == "✓△—✓✗—"
    assert page.ask('document.querySelector(".cell.partial").title') == "repeat 2: partial"
    assert page.ask('document.querySelector(".alert").textContent') == "⚠ the log has not grown for 600 s"
    assert page.ask('document.getElementById("left").textContent') == "4/6 cells about 2 min to 5 min left"
    assert page.ask('document.querySelectorAll("pre b").length') == 0
    assert page.requests() == [made.as_uri()]
    assert page.complaints() == []
