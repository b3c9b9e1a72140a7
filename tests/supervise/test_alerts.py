"""watch.json: written by the runner, read by the supervisor, whole at every moment."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tune_mcp.supervise.watch.alerts import AlertBook, AlertReader


def book(path: Path) -> AlertBook:
    return AlertBook(path, lambda: datetime(2026, 4, 23, 5, tzinfo=UTC))


def test_news_are_told_once_each_when_they_begin_and_when_they_end(tmp_path: Path) -> None:
    path = tmp_path / "watch.json"
    alerts, news = book(path), AlertReader(path)
    assert news.read() == ()

    alerts.raise_alert("disk nearly full", "3 MiB are free", "free some", ("seen",))
    alerts.raise_alert("disk nearly full", "2 MiB are free", "free some")
    alerts.write()
    (raised,) = news.read()
    assert raised.line() == "disk nearly full: 3 MiB are free [seen]. To do: free some"
    assert (news.read(), len(news.open)) == ((), 1)

    alerts.end("disk nearly full", "9 GiB are free")
    alerts.write()
    (ended,) = news.read()
    assert (ended.over, news.read(), news.open) == ("9 GiB are free", (), ())


def test_a_write_that_the_disk_refuses_is_made_up_for_later(tmp_path: Path) -> None:
    folder = tmp_path / "attempt"
    alerts, news = book(folder / "watch.json"), AlertReader(folder / "watch.json")
    alerts.raise_alert("clock jump", "back by 9 s", "nothing")
    alerts.write()
    assert news.read() == ()

    folder.mkdir()
    alerts.write()

    assert [one.name for one in news.read()] == ["clock jump"]


@pytest.mark.parametrize("torn", [b"", b"{", b'{"alerts": 3}', b"\xff"])
def test_a_file_in_the_middle_of_its_way_is_read_when_it_is_whole(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "watch.json"
    news = AlertReader(path)
    path.write_bytes(torn)
    assert news.read() == ()
    alerts = book(path)
    alerts.raise_alert("clock jump", "back by 9 s", "nothing")
    alerts.write()
    assert [one.name for one in news.read()] == ["clock jump"]


def test_nothing_is_written_while_nothing_changes(tmp_path: Path) -> None:
    path = tmp_path / "watch.json"
    alerts = book(path)
    alerts.processes = {"pytest": 1}
    alerts.write()
    os.utime(path, (1, 1))
    alerts.write()
    assert path.stat().st_mtime == 1
