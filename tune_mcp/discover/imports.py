"""Which file of the repository a Python import means, and each file's tree, parsed once.

Nothing outside the repository is read: an import that leads there has no file here.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from tune_mcp.discover.source_tree import parsed
from tune_mcp.errors import Refusal
from tune_mcp.files import inside, read_plain


@dataclass
class SourceFiles:
    """The Python files of one repository. Paths are relative to it, in POSIX form."""

    repo_root: Path
    _trees: dict[str, ast.Module | None] = field(default_factory=dict[str, "ast.Module | None"])
    _exists: dict[str, bool] = field(default_factory=dict[str, bool])
    _resolved: dict[tuple[str, str, int], str | None] = field(
        default_factory=lambda: dict[tuple[str, str, int], str | None]()
    )

    def tree(self, path: str) -> ast.Module | None:
        """The tree of ``path``; None when it is missing, outside the repository, or no Python."""
        if path not in self._trees:
            try:
                file = inside(self.repo_root, path)
                self._trees[path] = parsed(read_plain(file), path) if file.is_file() else None
            except (OSError, ValueError, SyntaxError, RecursionError, MemoryError, Refusal):
                self._trees[path] = None
        return self._trees[path]

    def exists(self, path: str) -> bool:
        """Whether ``path`` is a file inside the repository."""
        if path not in self._exists:
            try:
                self._exists[path] = inside(self.repo_root, path).is_file()
            except (OSError, ValueError, Refusal):
                self._exists[path] = False
        return self._exists[path]

    def resolve(self, importer: str, module: str, level: int = 0) -> str | None:
        """The file that ``module`` is, seen from the file ``importer``; ``level`` counts leading dots."""
        key = (importer, module, level)
        if key not in self._resolved:
            found = candidates(self, importer, module, level)
            self._resolved[key] = next((path for path in found if self.exists(path)), None)
        return self._resolved[key]

    def conftests(self, path: str) -> Iterator[str]:
        """The conftest.py files that pytest loads for the test file ``path``, the nearest first."""
        for folder in PurePosixPath(path).parents:
            name = str(folder / "conftest.py")
            if self.exists(name):
                yield name


def candidates(files: SourceFiles, importer: str, module: str, level: int) -> Iterator[str]:
    """Files that ``module`` may be, in the order in which Python under pytest would find them."""
    parents = list(PurePosixPath(importer).parents)
    if level:
        folders = parents[level - 1 : level]
    else:
        # pytest puts the first folder without __init__.py on the path, ``python -m pytest`` the current one.
        top = next((one for one in parents if not files.exists(str(one / "__init__.py"))), PurePosixPath("."))
        folders = list(dict.fromkeys([top, PurePosixPath("."), PurePosixPath("src"), *parents]))
    parts = [part for part in module.split(".") if part]
    for folder in folders:
        path = folder.joinpath(*parts)
        if parts:
            yield f"{path}.py"
        yield str(path / "__init__.py")
