"""Kinds of values that several of our YAML files hold, with the checks that each file makes at its edge.

A file may set variables for a launch, but no secret, no proxy, and nothing that writes pytest's command line (ENV-26,
XPY-01).
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, cast

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from tune_mcp.config.stages import Frozen, Location


def wrong(what: str, rule: str = "MOD-02") -> PydanticCustomError:
    """What a validator raises: a sentence that says all, also what was given, and the rule that asks for better."""
    return PydanticCustomError("tune_check", "{what}", {"what": what, "rule": rule})


class ConfigModel(Frozen):
    """A block of a person's YAML file: a key left blank means its default."""

    @model_validator(mode="before")
    @classmethod
    def _blank_is_default(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        given = cast("dict[str, object]", value)
        return {k: v for k, v in given.items() if v is not None or k not in cls.model_fields}


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise wrong(f"not a regular expression: {error}") from error
    return pattern


def _below(path: str) -> str:
    pure = PurePosixPath(path)
    if not path.strip() or pure.is_absolute() or ".." in pure.parts or "\0" in path or "\\" in path:
        raise wrong(f"{path!r} is not a relative path without '..'", "DSC-08")
    return path


def _source(source: str) -> str:
    file, found, keys = source.rpartition("::")
    if found:
        _below(file)
    if not keys or not all(keys.split(".")):
        raise wrong(f"{source!r} is neither a dotted path nor file::dotted.path", "DSC-08")
    return source


def _absolute(path: str) -> str:
    if not PurePosixPath(path).is_absolute():
        raise wrong(f"{path!r} is not an absolute path", "HST-06")
    return path


def one_or_more(value: object) -> object:
    """One string where a list is asked for is a list of one."""
    return (value,) if isinstance(value, str) else value


def locate(source: str, json_file: str | None) -> Location | None:
    """``file::a.b`` or ``a.b`` in ``json_file``; None when no file is known (rules DSC-08, DSC-17)."""
    file, _, keys = source.rpartition("::")
    name = file or json_file
    return Location(json_file=name, json_path=keys) if name else None


Regex = Annotated[str, AfterValidator(_compiles)]
RelativePath = Annotated[str, AfterValidator(_below)]
"""A path below a root that the field names: never absolute, never through ``..``."""
AbsolutePath = Annotated[str, AfterValidator(_absolute)]
JsonSource = Annotated[str, AfterValidator(_source)]
"""``dotted.path`` in the block's ``json_file``, or ``file::dotted.path``."""


Strings = Annotated[tuple[str, ...], BeforeValidator(one_or_more)]
"""A list of strings, or one string by itself."""
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
ConstantName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
ModuleName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$")]
Gpus = Annotated[int, Field(ge=0, le=64)]


class CiMachine(ConfigModel):
    """The machine whose numbers the thresholds are, CI's: GPUs by their NVML name, torch by its CUDA (SCP-01).

    ``gpu`` is a pattern for the whole name; ``cuda`` opens the version, so 13 is every 13.x.
    """

    gpu: Regex | None = None
    cuda: Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)*$")] | None = None


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
        raise wrong("PYTEST_ADDOPTS is not allowed: tune-mcp alone writes pytest's command line", "XPY-01")
    return env


def _shared(name: str) -> str:
    if _OF_ONE_PERSON.fullmatch(name):
        # The value is not repeated: this sentence ends in logs.
        raise wrong(f"{name} is a secret or a proxy; export it in the shell that starts tune-mcp", "ENV-26")
    return name


def _no_secret(value: str) -> str:
    if _CREDENTIALS.search(value):
        raise wrong("it holds a user and a password; export it in the shell that starts tune-mcp", "ENV-26")
    return value


Public = Annotated[str, AfterValidator(_no_secret)]
"""A text without a user and a password: it is shown, and stays in the files of a run."""
Env = Annotated[dict[Annotated[str, AfterValidator(_shared)], Public], AfterValidator(_no_addopts)]
