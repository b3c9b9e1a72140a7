"""A client's configuration gets one entry and loses nothing."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from tune_mcp.cli.install import CLIENTS, install
from tune_mcp.errors import Refusal


def run(client: str, folder: Path, *, undo: bool = False, dry_run: bool = False) -> int:
    return install(client, folder / "repo", undo=undo, dry_run=dry_run, home=folder / "home")


def file_of(client: str, folder: Path) -> Path:
    return next(one for one in CLIENTS if one.name == client).file(folder / "repo", folder / "home")


@pytest.mark.parametrize("client", [one.name for one in CLIENTS])
def test_install_is_idempotent_and_undo_takes_only_our_entry_out(client: str, tmp_path: Path) -> None:
    run(client, tmp_path)
    path = file_of(client, tmp_path)
    once = path.read_text()
    run(client, tmp_path)
    assert path.read_text() == once
    read = tomllib.loads(once) if path.suffix == ".toml" else json.loads(once)
    table = next(one.table for one in CLIENTS if one.name == client)
    assert read[table]["tune"]["args"] == ["-m", "tune_mcp", "serve"]

    run(client, tmp_path, undo=True)

    assert "tune" not in path.read_text()


def test_what_else_stands_in_the_file_stays(tmp_path: Path) -> None:
    cursor, codex = file_of("cursor", tmp_path), file_of("codex", tmp_path)
    cursor.parent.mkdir(parents=True)
    codex.parent.mkdir(parents=True)
    cursor.write_text('{"mcpServers": {"other": {"command": "x"}}, "theme": "dark"}')
    codex.write_text('# mine\nmodel = "big"  # yes\n\n[mcp_servers.other]\ncommand = "x"\n')
    before = codex.read_text()

    run("cursor", tmp_path)
    run("codex", tmp_path)

    found = json.loads(cursor.read_text())
    assert found["theme"] == "dark" and found["mcpServers"]["other"] == {"command": "x"}
    assert codex.read_text().startswith(before.rstrip())
    assert tomllib.loads(codex.read_text())["mcp_servers"]["other"] == {"command": "x"}


def test_a_dry_run_and_a_broken_file_change_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("vscode", tmp_path, dry_run=True)
    assert '+      "type": "stdio",' in capsys.readouterr().out
    assert not file_of("vscode", tmp_path).exists()

    path = file_of("claude-code", tmp_path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{ not json")
    with pytest.raises(Refusal, match=r"^INVALID_ARGUMENT .*cannot be changed safely"):
        run("claude-code", tmp_path)
    assert path.read_text() == "{ not json"
    with pytest.raises(Refusal, match=r"there is no client 'emacs'"):
        run("emacs", tmp_path)
