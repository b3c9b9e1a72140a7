"""A client's configuration gets one entry and loses nothing; what was not there before is gone after undo."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import toy

from tune_mcp.cli import jsonc
from tune_mcp.cli.install import CLIENTS, Client, install
from tune_mcp.contract.options import Options
from tune_mcp.errors import Refusal
from tune_mcp.session import provenance
from tune_mcp.verbs.project import Project

NAMES = [one.name for one in CLIENTS]
PYTHON = "/opt/tune/bin/python"
JSONC = """{
    // mine, with a "quote" and a { brace
    "theme": "dark", /* and another */
    "servers": {
        "other": {"command": "x", "args": ["//no comment"],}, // stays
    },
}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    toy.git(tmp_path, "init", "-q", "repo")
    return tmp_path


def project(folder: Path, options: Options | None = None, **env: str) -> Project:
    return Project.resolve(options or Options(repo=folder / "repo"), {"PATH": os.environ["PATH"], **env})


def run(
    client: str, folder: Path, *, undo: bool = False, dry_run: bool = False, python: str = PYTHON, **env: str
) -> int:
    return install(client, project(folder, **env), undo=undo, dry_run=dry_run, home=folder / "home", python=python)


def of(client: str) -> Client:
    return next(one for one in CLIENTS if one.name == client)


def file_of(client: str, folder: Path, env: Mapping[str, str] | None = None) -> Path:
    return of(client).file(folder / "repo", folder / "home", env or {})


def entry(path: Path, table: str) -> dict[str, Any]:
    text = path.read_text().removeprefix("\ufeff")
    plain = (
        text
        if path.suffix == ".toml"
        else re.sub(r",(\s*[}\]])", r"\1", re.sub(r"(?m)(?<![:\"])//.*$|/\*.*?\*/", "", text))
    )
    return (tomllib.loads(plain) if path.suffix == ".toml" else json.loads(plain))[table]["tune"]


@pytest.mark.parametrize("client", NAMES)
def test_install_is_idempotent_and_undo_leaves_nothing(
    client: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(one for one in folder.rglob("*") if ".git" not in one.parts)
    run(client, folder)
    path = file_of(client, folder)
    once = path.read_text()
    said = capsys.readouterr().out
    assert of(client).then in said, "the client's own next step"
    run(client, folder)
    assert path.read_text() == once
    found = entry(path, of(client).table)
    words = found["command"] if client == "opencode" else [found["command"], *found["args"]]
    assert words == [PYTHON, "-m", "tune_mcp", "serve"]
    assert found.get("env", found.get("environment")) == {"TUNE_REPO_ROOT": str(folder / "repo")}

    run(client, folder, undo=True)

    assert not path.exists()
    left = sorted(one for one in folder.rglob("*") if ".git" not in one.parts)
    assert [one for one in left if one not in before and one.is_relative_to(folder / "repo")] == []


def test_codex_waits_for_the_server_before_its_first_request(folder: Path) -> None:
    run("codex", folder)

    assert entry(file_of("codex", folder), "mcp_servers")["required"] is True


@pytest.mark.parametrize("client", NAMES)
def test_options_of_the_call_and_set_variables_go_into_the_entry(client: str, folder: Path) -> None:
    (folder / "repo" / ".tune" / "hosts").mkdir(parents=True)
    (folder / "repo" / ".tune" / "hosts" / "box.yaml").write_text("name: box\nhostname: b\nrepo_root: /x\n")
    options = Options(folder / "repo", "box", folder / "repo" / ".tune", "venv/bin/python")
    env = {"TUNE_LOCK_DIR": "/locks with blanks", "TUNE_GUARD_RECORD": "of a launch", "TUNE_HOST": ""}
    install(client, project(folder, options, **env), undo=False, dry_run=False, home=folder / "home", python=PYTHON)

    found = entry(file_of(client, folder), of(client).table)
    words = found["command"] if client == "opencode" else found["args"]
    assert words[-6:] == [
        "--host",
        "box",
        "--config",
        str(folder / "repo" / ".tune"),
        "--venv-python",
        "venv/bin/python",
    ]
    assert found.get("env", found.get("environment")) == {
        "TUNE_LOCK_DIR": "/locks with blanks",
        "TUNE_REPO_ROOT": str(folder / "repo"),
    }


@pytest.mark.parametrize(
    ("client", "env", "place"),
    [
        ("codex", {"CODEX_HOME": "mine"}, "mine/config.toml"),
        ("copilot", {"COPILOT_HOME": "mine"}, "mine/mcp-config.json"),
        ("zed", {"XDG_CONFIG_HOME": "mine"}, "mine/zed/settings.json"),
        ("claude-desktop", {"XDG_CONFIG_HOME": "mine"}, "mine/Claude/claude_desktop_config.json"),
        ("claude-code", {"CLAUDE_CONFIG_DIR": "mine"}, "repo/.mcp.json"),
    ],
)  # fmt: skip
def test_a_clients_own_word_on_its_folder_counts(client: str, env: dict[str, str], place: str, folder: Path) -> None:
    run(client, folder, **{name: str(folder / value) for name, value in env.items()})

    assert entry(folder / place, of(client).table)["env"]["TUNE_REPO_ROOT"] == str(folder / "repo")


def test_comments_order_and_layout_of_everything_else_stay(folder: Path) -> None:
    vscode, codex = file_of("vscode", folder), file_of("codex", folder)
    for path, text in (
        (vscode, JSONC),
        (codex, '# mine\nmodel = "big"  # yes\n\n[mcp_servers.other]\ncommand = "x"\n'),
    ):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    before = codex.read_text()

    run("vscode", folder)
    run("codex", folder)

    lines = vscode.read_text().splitlines()
    kept = [line for line in JSONC.splitlines() if line not in lines]
    assert kept == [], "every line of before is there"
    assert entry(vscode, "servers")["command"] == PYTHON
    assert codex.read_text().startswith(before.rstrip())
    run("vscode", folder, undo=True)
    run("codex", folder, undo=True)
    assert codex.read_text() == before
    for sign in ("// mine", "/* and another */", "// stays", '"theme": "dark"', '"other"'):
        assert sign in vscode.read_text()
    assert "tune" not in vscode.read_text()
    jsonc.read(vscode.read_text())


@pytest.mark.parametrize(
    "text",
    [
        '{\n  "servers": {\n    // keep\n    "a": {"command": "b"},\n  },\n}\n',
        '{\n  "servers": {\n    "a": {"command": "b"}\n  },\n}\n',
        '{\n  "servers": {\n    "a": {}, // its own\n    /* none after it */\n  }\n}\n',
        '{\n  "theme": "x",\n}\n',
    ],
)
def test_undo_leaves_a_file_with_trailing_commas_as_it_was(text: str) -> None:
    there = jsonc.with_entry(text, "servers", "tune", {"command": "x"})

    assert '"tune"' in there and jsonc.without_entry(there, "servers", "tune") == text


@pytest.mark.parametrize(
    "text",
    [
        "", "\n", "{}", "{ }\n", "{\n}\n", '{"a": 1}',
        '{"a": 1,}', '{\n  "a": 1 // one\n}\n', '{\n\t"a": [1, 2,],\n}\n',
        '// head\n{"servers": {}}\n', '{"servers": {"x": {}}, "z": "}"}', '{"servers": {\n// none yet\n}\n}',
        '{"servers": {"tune": {"command": "old"}, "x": {}}}', '{"servers": {"tune": null}}',
        '{"servers": {"x": {}, // one\n "tune": null, },}', '{"servers": {"x": {}, // one\n},}',
    ],
)  # fmt: skip
def test_an_entry_is_set_and_taken_out_by_position_whatever_the_layout(text: str) -> None:
    value = {"command": "x", "args": ["}", "//"], "env": {}}
    there = jsonc.with_entry(text, "servers", "tune", value)
    again = jsonc.with_entry(there, "servers", "tune", value)
    gone = jsonc.without_entry(there, "servers", "tune")

    def values(node: jsonc.Node, of: str) -> Any:
        if node.members is None:
            return of[node.start : node.end]
        return {key: values(one, of) for key, one in node.members.items()}

    found = jsonc.read(there)
    assert (
        json.loads(there[found.members["servers"].members["tune"].start : found.members["servers"].members["tune"].end])
        == value
    )
    assert again == there
    before = values(jsonc.read(text), text) if text.strip() else {}
    left = values(jsonc.read(gone), gone) if gone else {}
    before.get("servers", {}).pop("tune", None)
    for both in (before, left):
        if not both.get("servers"):
            both.pop("servers", None)
    assert left == before
    for comment in re.findall(r"// [a-z ]+", text):
        assert comment in gone


def test_a_link_is_followed_and_undo_leaves_its_target(folder: Path) -> None:
    target = folder / "dotfiles" / "mcp.json"
    target.parent.mkdir()
    target.write_text('{"mcpServers": {}}\n')
    link = file_of("cursor", folder)
    link.parent.mkdir(parents=True)
    link.symlink_to(target)

    run("cursor", folder)
    assert link.is_symlink() and entry(target, "mcpServers")["command"] == PYTHON
    run("cursor", folder, undo=True)

    assert link.is_symlink() and json.loads(target.read_text()) == {}


@pytest.mark.parametrize("client", ["cursor", "codex"])
def test_a_byte_order_mark_line_ends_and_the_files_mode_stay(client: str, folder: Path) -> None:
    path = file_of(client, folder)
    path.parent.mkdir(parents=True)
    body = 'model = "big"\r\n' if client == "codex" else '{\r\n  "theme": "dark"\r\n}\r\n'
    path.write_bytes(("\ufeff" + body).encode())
    path.chmod(0o600)

    run(client, folder)
    data = path.read_bytes()
    assert data.startswith("\ufeff".encode()) and b"tune" in data and data.count(b"\n") == data.count(b"\r\n")
    run(client, folder, undo=True)

    assert path.read_bytes().decode() == "\ufeff" + body
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "python",
    [
        "/home/u/.cache/uv/archive-v0/Ab3/bin/python", "/home/u/.cache/uv/environments-v2/x/bin/python3",
        "/home/u/.local/share/pipx/.cache/1f/bin/python", "/home/u/.cache/pipx/1f/bin/python",
        "/elsewhere/cache/x/bin/python",
    ],
)  # fmt: skip
def test_an_interpreter_in_a_cache_is_refused(python: str, folder: Path) -> None:
    with pytest.raises(Refusal, match=r"may be emptied at any time.*uv tool install tune-mcp"):
        run("claude-code", folder, python=python, UV_CACHE_DIR="/elsewhere/cache")

    assert not file_of("claude-code", folder).exists()


def test_a_dry_run_and_a_broken_file_change_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("vscode", folder, dry_run=True)
    assert '+      "type": "stdio",' in capsys.readouterr().out
    assert not file_of("vscode", folder).exists()

    path = file_of("claude-code", folder)
    for broken in (
        "{ not json",
        '{"a": 1} }',
        "[]",
        '{"mcpServers": []}',
        '{"a": 1, "a": 2}',
        '{"a" 1}',
        '{"a": 1 "b": 2}',
    ):
        path.write_text(broken)
        with pytest.raises(Refusal, match=r"(?s)^INVALID_ARGUMENT: .*cannot be changed safely.*\"tune\": \{"):
            run("claude-code", folder)
        assert path.read_text() == broken
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(Refusal, match="cannot be changed safely"):
        run("claude-code", folder)
    with pytest.raises(Refusal, match=r"there is no client 'emacs'"):
        run("emacs", folder)


@pytest.mark.rule("SES-03")
def test_a_clients_own_files_are_no_dirt(folder: Path) -> None:
    repo = folder / "repo"
    (repo / "a.py").write_text("1\n")
    toy.git(repo, "add", ".")
    toy.git(repo, "commit", "-qm", "x")
    for client in ("claude-code", "cursor", "vscode", "gemini", "opencode"):
        run(client, folder)
    (repo / ".claude").mkdir()
    (repo / ".claude" / "settings.local.json").write_text("{}")

    assert not provenance.read(repo).dirty
    (repo / ".claude" / "conftest.py").write_text("1\n")
    (repo / "mcp.json").write_text("{}")
    assert set(provenance.read(repo).untracked) == {".claude/conftest.py", "mcp.json"}
