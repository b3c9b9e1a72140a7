"""The configuration of the mutation run names modules and tests that exist."""

from __future__ import annotations

import importlib.util
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def mutation() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mutation_run", ROOT / "tests/mutation/run.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_configured_test_exists_and_every_module_but_an_open_glob_does(mutation: ModuleType) -> None:
    configured = tomllib.loads((ROOT / "tests/mutation/modules.toml").read_text())["modules"]
    for pattern, entry in configured.items():
        assert "*" in pattern or (ROOT / pattern).is_file(), pattern
        assert entry["seconds"] > 0
        for test in entry["tests"]:
            assert (ROOT / test).exists(), test


def test_a_part_of_a_path_or_a_glob_chooses_modules_and_the_first_entry_of_one_counts(mutation: ModuleType) -> None:
    (one,) = mutation.targets("report/statistics.py")
    assert one.tests == ("tests/report/test_statistics.py",)
    literals = next(target for target in mutation.targets("tune_mcp/apply/*") if target.module.endswith("literals.py"))
    assert "tests/apply/test_literals.py" in literals.tests
    assert mutation.targets("no/such/module") == []
    assert all(not target.module.endswith("__init__.py") for target in mutation.targets())


def test_an_unknown_module_is_refused(mutation: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert mutation.main(["no/such/module"]) == 2
    assert "no configured module fits" in capsys.readouterr().out
