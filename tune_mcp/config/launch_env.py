"""What a YAML file may set: no secret, no proxy, nothing that writes pytest's command line (ENV-26, XPY-01)."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

_CREDENTIALS = re.compile(r"://[^/@\s]*:[^/@\s]*@")
_OF_ONE_PERSON = re.compile(
    r"(?i)(.*_)?((HTTPS?|ALL|FTP|SOCKS)_PROXY|(HF|HUB|GH|GITHUB|GITLAB|API|ACCESS|AUTH|SESSION)_TOKEN"
    r"|PASSWORD|PASSWD|SECRET|API_?KEY|ACCESS_KEY|PRIVATE_KEY|CREDENTIALS?)"
)
"""Names of variables that hold what belongs to one person's shell: a way out of a network, or a right."""


def of_one_person(name: str, value: str) -> bool:
    """Whether a variable belongs to the shell of whoever starts tune-mcp: in no YAML file, and never shown."""
    return bool(_OF_ONE_PERSON.fullmatch(name) or _CREDENTIALS.search(value))


def _no_addopts(env: dict[str, str]) -> dict[str, str]:
    if "PYTEST_ADDOPTS" in env:
        what = "PYTEST_ADDOPTS is not allowed: tune-mcp alone writes pytest's command line"
        raise PydanticCustomError("tune_pytest_env", what, {"rule": "XPY-01"})
    return env


def _shared(name: str) -> str:
    if _OF_ONE_PERSON.fullmatch(name):
        # The value is not repeated: this sentence ends in logs.
        what = "{name} is a secret or a proxy; export it in the shell that starts tune-mcp"
        raise PydanticCustomError("tune_personal", what, {"name": name, "rule": "ENV-26"})
    return name


def _no_secret(value: str) -> str:
    if _CREDENTIALS.search(value):
        what = "it holds a user and a password; export it in the shell that starts tune-mcp"
        raise PydanticCustomError("tune_secret", what, {"rule": "ENV-26"})
    return value


Public = Annotated[str, AfterValidator(_no_secret)]
"""A text without a user and a password: it is shown, and stays in the files of a run."""
Env = Annotated[dict[Annotated[str, AfterValidator(_shared)], Public], AfterValidator(_no_addopts)]
