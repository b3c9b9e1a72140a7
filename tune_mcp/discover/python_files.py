"""The one reader of a repository's Python files: each is read and parsed once, and its imports lead to other files.

Nothing outside the repository is read: an import that leads there has no file here.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path, PurePosixPath
from typing import Concatenate, ParamSpec, TypeVar

from tune_mcp.discover.constants import ModuleConstants, parse_module
from tune_mcp.discover.source_tree import Imported, imports_in, parsed
from tune_mcp.errors import Refusal
from tune_mcp.files import inside, read_plain, sha256_bytes

_STARS_DEEP = 4


Owner = TypeVar("Owner")
Answer = TypeVar("Answer")
Given = ParamSpec("Given")


def remembered(method: Callable[Concatenate[Owner, Given], Answer]) -> Callable[Concatenate[Owner, Given], Answer]:
    """A method that is computed once for the same arguments, for as long as its object lives."""

    @wraps(method)
    def once(self: Owner, *args: Given.args, **kwargs: Given.kwargs) -> Answer:
        known: dict[object, Answer] = vars(self).setdefault(f"({method.__name__})", {})
        key = (args, *kwargs.items())
        if key not in known:
            known[key] = method(self, *args, **kwargs)
        return known[key]

    return once


@dataclass
class PythonFiles:
    """Answers for one repository. Paths are relative to it, in POSIX form."""

    repo_root: Path
    asked: set[str] = field(default_factory=set[str])
    """Every path that was looked at, also those where there is no file."""
    _failed: bool = False
    """Whether a file could not be read or parsed now, and perhaps can at another time."""

    # One file

    @remembered
    def data(self, path: str) -> bytes | None:
        """The bytes of ``path`` when it was first read; None when there is no such file inside the repository."""
        return read_plain(inside(self.repo_root, path)) if self.exists(path) else None

    @remembered
    def tree(self, path: str) -> ast.Module | None:
        """The tree of ``path``; None when it is missing, outside the repository, or no Python."""
        try:
            data = self.data(path)
            return None if data is None else parsed(data, path)
        except (OSError, RecursionError, MemoryError):
            self._failed = True
            return None
        except (ValueError, SyntaxError, Refusal):
            return None

    @remembered
    def constants(self, path: str) -> ModuleConstants | None:
        """The constants of ``path``, None for no such file. Raises INVALID_CONFIG for one that is no Python."""
        data = self.data(path)
        return None if data is None else parse_module(data, path)

    @remembered
    def exists(self, path: str) -> bool:
        """Whether ``path`` is a file inside the repository."""
        self.asked.add(path)
        try:
            found = (self.repo_root / path).is_file()  # most are not there; links cost more
            return found and inside(self.repo_root, path).is_file()
        except (OSError, ValueError, Refusal):
            return False

    # What the answers depend on

    @remembered
    def digest(self, path: str) -> str | None:
        """The digest of ``path`` when it was first read; None for no such file. Raises ``OSError``."""
        data = self.data(path)
        return None if data is None else sha256_bytes(data)

    def digests(self) -> dict[str, str | None] | None:
        """The digests of all that was looked at, on which every answer depends; None where that is not all of it."""
        try:
            found = {path: self.digest(path) for path in sorted(self.asked)}
        except OSError:
            return None
        return None if self._failed else found

    def have(self, digests: Mapping[str, str | None]) -> bool:
        """Whether every one of those paths has that digest, or is missing where it is None."""
        try:
            return all(self.digest(path) == digest for path, digest in digests.items())
        except OSError:
            return False

    # pytest's own files

    def conftests(self, path: str) -> Iterator[str]:
        """The conftest.py files that pytest loads for the test file ``path``, the nearest first, and their plugins."""
        names = (str(folder / "conftest.py") for folder in PurePosixPath(path).parents)
        found = [name for name in names if self.exists(name)]
        plugins = [plugin for name in (path, *found) for plugin in self._plugins(name)]
        yield from dict.fromkeys([*found, *plugins])

    def _plugins(self, path: str) -> Iterator[str]:
        """The files of the repository that ``pytest_plugins`` of a file names."""
        for node in getattr(self.tree(path), "body", ()):
            if isinstance(node, ast.Assign) and any(ast.unparse(one) == "pytest_plugins" for one in node.targets):
                texts = (one.value for one in ast.walk(node.value) if isinstance(one, ast.Constant))
                found = (self.resolve(path, text) for text in texts if isinstance(text, str))
                yield from (one for one in found if one)

    # Imports

    @remembered
    def resolve(self, importer: str, module: str, level: int = 0) -> str | None:
        """The file that ``module`` is, seen from the file ``importer``; ``level`` counts leading dots."""
        return next((path for path in self._candidates(importer, module, level) if self.exists(path)), None)

    def _candidates(self, importer: str, module: str, level: int) -> Iterator[str]:
        """Files that ``module`` may be, in the order in which Python under pytest would find them."""
        parents = list(PurePosixPath(importer).parents)
        if level:
            folders = parents[level - 1 : level]
        else:
            # pytest puts the first folder without __init__.py on the path, ``python -m pytest`` the current one.
            top = next((one for one in parents if not self.exists(str(one / "__init__.py"))), PurePosixPath("."))
            folders = list(dict.fromkeys([top, PurePosixPath("."), PurePosixPath("src"), *parents]))
        parts = [part for part in module.split(".") if part]
        for folder in folders:
            path = folder.joinpath(*parts)
            if parts:
                yield f"{path}.py"
            yield str(path / "__init__.py")

    def imports(self, path: str) -> tuple[Imported, ...]:
        """What is imported anywhere in a file; nothing where there is no tree."""
        tree = self.tree(path)
        return tuple(imports_in(ast.walk(tree))) if tree else ()

    def led_to(self, path: str, one: Imported) -> tuple[str, ...]:
        """The files of the repository that an import of ``path`` runs: the module, and the one that its name may be."""
        modules = [one.module] if one.name in (None, "*") else [one.module, one.inner]
        found = (self.resolve(path, module, one.level) for module in modules)
        return tuple(dict.fromkeys(file for file in found if file))

    def imported_files(self, path: str) -> tuple[str, ...]:
        """The files of the repository that a file imports."""
        return tuple(dict.fromkeys(file for one in self.imports(path) for file in self.led_to(path, one)))

    # Numbers through imports

    def imported(self, module: str, importer: str) -> ModuleConstants | None:
        """The constants of the file that ``module`` (with its leading dots) is, seen from the file ``importer``."""
        bare = module.lstrip(".")
        path = self.resolve(importer, bare, len(module) - len(bare))
        return self.constants(path) if path else None

    def number(self, module: ModuleConstants, name: str, depth: int = 4) -> int | float | None:
        """The number that ``name`` means in ``module``, through ``A = B`` and ``from file import B`` (SMP-02)."""
        constant = module.constants.get(name)
        value = module.number(name)
        if value is not None or depth == 0:
            return value
        if constant is not None:
            return self.number(module, constant.alias, depth - 1) if constant.alias and not constant.problem else None
        origins = [entry for entry in module.imports if entry.endswith(f".{name}")]
        if len(origins) != 1 or name not in module.elsewhere:
            return None
        other = self.imported(origins[0].removesuffix(f".{name}"), module.path)
        return self.number(other, name, depth - 1) if other else None

    def with_stars(self, module: ModuleConstants, depth: int = _STARS_DEEP) -> ModuleConstants:
        """The module, with the names that it uses and that star imports bind among those that are bound elsewhere."""
        elsewhere: dict[str, str] = {}
        imports = set(module.imports)
        for dotted in module.stars if depth else ():
            other = self.imported(dotted, module.path)
            if other is None:
                how = f"perhaps bound by the star import of {dotted}, which is not in this repository"
                found = module.names_read
            else:
                other = self.with_stars(other, depth - 1)
                how = f"bound by the star import of {other.path}"
                found = other.constants.keys() | other.elsewhere.keys()
                imports |= {f"{dotted}.{name}" for name in found}
            elsewhere |= {name: how for name in found if not name.startswith("_")}
        # Of what a star binds, only what the test file itself uses matters.
        wanted = elsewhere.keys() & module.names_read if depth == _STARS_DEEP else elsewhere.keys()
        missing = {name: elsewhere[name] for name in elsewhere if name in wanted and name not in module.constants}
        return replace(module, elsewhere={**missing, **module.elsewhere}, imports=frozenset(imports))
