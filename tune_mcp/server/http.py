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

from pydantic import AnyHttpUrl

from tune_mcp.errors import Code, Refusal
from tune_mcp.files import read_text, sync_folder

if TYPE_CHECKING:
    from mcp.server.auth.provider import AccessToken

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
            f"write one: python3 -c 'import secrets; print(secrets.token_urlsafe(32))' > {shlex.quote(str(path))}",
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


class OneToken:
    """The SDK's token verifier for the one token of the file; every wrong one takes the same time."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

    async def verify_token(self, token: str) -> AccessToken | None:
        """Who holds the token may do everything."""
        from mcp.server.auth.provider import AccessToken

        right = hmac.compare_digest(token.encode(), self._secret)
        return AccessToken(token=token, client_id="local", scopes=[]) if right else None


def serve_http(options: HttpOptions) -> int:
    """Serve until a signal comes. Raises INVALID_ARGUMENT before anything listens."""
    secret, path = token(options)
    import uvicorn
    from mcp.server.auth.settings import AuthSettings
    from mcp.server.transport_security import TransportSecuritySettings

    from tune_mcp.server.build import build

    names = options.names()
    url = AnyHttpUrl(f"http://{names[0]}")
    # No resource URL: the SDK would publish it, and send clients to a login that does not exist.
    mcp = build(AuthSettings(issuer_url=url, resource_server_url=None), OneToken(secret))
    app = mcp.streamable_http_app(
        streamable_http_path=PATH,
        host=options.bind,
        max_request_body_size=_LARGEST_BODY,
        transport_security=TransportSecuritySettings(
            enable_dns_rebinding_protection=True,
            allowed_hosts=list(names),
            allowed_origins=[f"http://{name}" for name in names],
        ),
    )
    print(f"serving {url}{PATH.removeprefix('/')}; the bearer token is in {path}", file=sys.stderr, flush=True)
    uvicorn.run(app, host=options.bind, port=options.port, log_level="warning", access_log=False)
    return 0
