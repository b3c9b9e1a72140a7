"""``tune-mcp serve --http``: the same server for clients on this machine that cannot start it themselves.

Everything is behind one bearer token from a file that only its owner can read; Host and Origin are checked, so that a
web page in somebody's browser cannot talk to it. Another address than loopback needs a token file named on purpose.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import secrets
import shlex
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tune_mcp.errors import Code, Refusal
from tune_mcp.files import read_text, sync_folder

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer
    from starlette.types import ASGIApp, Receive, Scope, Send

DEFAULT_PORT = 8765
PATH = "/mcp"
_SHORTEST_TOKEN = 32
_LARGEST_BODY = 1 << 20


@dataclass(frozen=True)
class HttpOptions:
    """Where to listen. ``token_file`` None is the user's own; ``hosts`` are further names that clients call us by."""

    bind: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    token_file: Path | None = None
    hosts: tuple[str, ...] = ()

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.bind).is_loopback
        except ValueError:
            return self.bind == "localhost"

    def names(self) -> tuple[str, ...]:
        """Every ``host:port`` that a request may name."""
        named = [self.bind, "127.0.0.1", "localhost", "[::1]"] if self.loopback else [self.bind]
        return tuple(dict.fromkeys([*(f"{name}:{self.port}" for name in named), *self.hosts]))


def default_token_file() -> Path:
    """``$XDG_CONFIG_HOME/tune-mcp/token``."""
    home = os.environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "tune-mcp" / "token"


def token(options: HttpOptions) -> tuple[str, Path]:
    """The token and its file; the user's own file is made when it is not there. Raises INVALID_ARGUMENT."""
    path = options.token_file or default_token_file()
    if options.token_file is None:
        if not options.loopback:
            raise _refused(
                f"{options.bind} can be reached from other machines",
                "serve on 127.0.0.1 and reach it through ssh, or name a token file with --token-file",
            )
        _make(path)
    try:
        facts = path.stat()
        text = read_text(path).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise _refused(f"the token file {path} cannot be read: {error}", "name a file that holds one token") from error
    if stat.S_IMODE(facts.st_mode) & 0o077 or facts.st_uid != os.getuid():
        raise _refused(
            f"others can read the token file {path}, or it is not yours", f"chmod 600 {shlex.quote(str(path))}"
        )
    if len(text) < _SHORTEST_TOKEN or any(sign.isspace() for sign in text) or not text.isascii():
        raise _refused(
            f"{path} holds no token of {_SHORTEST_TOKEN} or more plain characters",
            f"write one: python3 -c 'import secrets; print(secrets.token_urlsafe(32))' > {path}",
        )
    return text, path


def _make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(handle, "w") as stream:
        stream.write(secrets.token_urlsafe(_SHORTEST_TOKEN) + "\n")
    sync_folder(path.parent)


def _refused(what: str, next_step: str) -> Refusal:
    return Refusal(Code.INVALID_ARGUMENT, "SCP-04", what, next_step, {"argument": "--http"})


class Guarded:
    """An application behind a token: no request without it reaches anything."""

    def __init__(self, app: ASGIApp, secret: str) -> None:
        self._app = app
        self._expected = f"Bearer {secret}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or answer 401; the comparison takes the same time for every wrong token."""
        if scope["type"] == "http":
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._expected):
                headers = [(b"www-authenticate", b"Bearer"), (b"content-type", b"text/plain")]
                await send({"type": "http.response.start", "status": 401, "headers": headers})
                await send({"type": "http.response.body", "body": b"a bearer token is needed\n"})
                return
        elif scope["type"] != "lifespan":
            return
        await self._app(scope, receive, send)


def application(mcp: MCPServer[None], options: HttpOptions, secret: str) -> ASGIApp:
    """The protocol at ``/mcp``, behind the token and the checks of Host and Origin."""
    from mcp.server.transport_security import TransportSecuritySettings

    names = options.names()
    inner = mcp.streamable_http_app(
        streamable_http_path=PATH,
        host=options.bind,
        max_request_body_size=_LARGEST_BODY,
        transport_security=TransportSecuritySettings(
            enable_dns_rebinding_protection=True,
            allowed_hosts=list(names),
            allowed_origins=[f"http://{name}" for name in names],
        ),
    )
    return Guarded(inner, secret)


def serve_http(mcp: MCPServer[None], options: HttpOptions) -> int:
    """Serve until a signal comes. Raises INVALID_ARGUMENT before anything listens."""
    secret, path = token(options)
    import uvicorn

    print(f"serving http://{options.names()[0]}{PATH}; the bearer token is in {path}", file=sys.stderr, flush=True)
    uvicorn.run(
        application(mcp, options, secret), host=options.bind, port=options.port, log_level="warning", access_log=False
    )
    return 0
