"""An edit is written only if the loaded module has exactly the planned values; the module itself is asked."""

from __future__ import annotations

from pathlib import Path

import pytest
import toy

from tune_mcp.apply import proof
from tune_mcp.contract.apply import ApplyReply
from tune_mcp.errors import Refusal
from tune_mcp.verbs.apply import apply
from tune_mcp.verbs.apply_plan import apply_plan
from tune_mcp.verbs.project import Project
from tune_mcp.verbs.report import report

AFTER = "STATE = Path"
REBINDING = {
    "setattr": "import sys\nsetattr(sys.modules[__name__], 'TOY_ACC_' + 'MIN', 0.25)",
    "vars": "vars().update({'TOY_ACC_' + 'MIN': 0.25})",
    "globals": "globals()['TOY_ACC_' + 'MIN'] = 0.25",
    "exec": "exec('TOY_ACC_' + 'MIN = 0.25')",
    "another module": "import over\nover.write(__name__)",
    "values": "for _table in _TOY_P95.values():\n    _table['throughput_' + 'qps'] = 0.25",
    "alias": "_ref = _TOY_P95[2]\n_ref['throughput_' + 'qps'] = 0.25",
    "alias of the whole": "_all = _TOY_P95\n_all[2] = {'throughput_qps': 0.25, 'latency_mean_s': 9.0}",
    "function": "def _lower(table):\n    table[2]['throughput_qps'] = 0.25\n\n\n_lower(_TOY_P95)",
    "update": "_TOY_P95[2].update({'throughput_qps': 0.25})",
    "class": "class _Lower:\n    _TOY_P95[2].__setitem__('throughput_qps', 0.25)",
    "comprehension": "[_table.update(throughput_qps=0.25) for _table in _TOY_P95.values()]",
    "environment": "if os.environ.get('CUDA_VISIBLE_DEVICES') is not None:\n    vars()['TOY_ACC_' + 'MIN'] = 0.25",
}
HONEST = {
    "derived": "LIMITS = {key: dict(table) for key, table in _TOY_P95.items()}\nHALF = TOY_ACC_MIN / 2",
    "function": "def _read(table):\n    return sorted(table)\n\n\nKEYS = _read(_TOY_P95)",
    "noise": "print('loaded')\nimport sys\nsys.stderr.write('loaded')",
}


def made(folder: Path, code: str) -> Project:
    source = toy.toy_source().replace(AFTER, f"{code}\n\n{AFTER}", 1)
    over = "import sys\n\n\ndef write(name):\n    vars(sys.modules[name])['TOY_ACC_' + 'MIN'] = 0.25\n"
    return toy.make_toy(folder / "repo", test_source=source, files={"over.py": over})


def applied(project: Project) -> ApplyReply:
    run = toy.finished_run(project)
    report(project, run.run_id)
    plan_id = apply_plan(project, run.run_id).plan_id
    return apply(project, run.run_id, plan_id, "full", otherwise="apply", failures_agreed=True)


@pytest.mark.rule("APL-17")
@pytest.mark.parametrize("shape", [*REBINDING])
def test_a_literal_that_the_module_overrides_is_never_written(tmp_path: Path, shape: str) -> None:
    bare = "TOY_ACC_" in REBINDING[shape] or shape == "another module"
    symbol, line = ("TOY_ACC_MIN", "TOY_ACC_MIN = 0.5 ") if bare else ("throughput_qps", '"throughput_qps": 1.0')
    project = made(tmp_path, REBINDING[shape])

    try:
        reply = applied(project)
    except Refusal as refusal:
        overridden = refusal.code == "THRESHOLD_UNKNOWN" and "while it is loaded" in refusal.message
        assert overridden or refusal.code == "NO_THRESHOLDS"
    else:  # what the text shows already is not even proposed
        assert not [one for one in reply.applied if symbol in one.symbol]
    assert line in (project.repo_root / toy.TEST_FILE).read_text()


@pytest.mark.rule("APL-17")
@pytest.mark.parametrize("shape", [*HONEST])
def test_values_that_are_only_derived_keep_nothing_from_being_written(tmp_path: Path, shape: str) -> None:
    project = made(tmp_path, HONEST[shape])

    reply = applied(project)

    assert len(reply.applied) == 3 and not [one for one in reply.warnings if "could not be loaded" in one]
    assert toy.git(project.repo_root, "status", "--porcelain", "--ignored", "-uall").count("__pycache__") == 0


@pytest.mark.rule("APL-17")
@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("if os.environ.get('CUDA_VISIBLE_DEVICES') == '':\n    import no_such_module", "ModuleNotFoundError"),
        ("if os.environ.get('CUDA_VISIBLE_DEVICES') == '':\n    os._exit(0)", "it ended while it was loaded"),
        ("if os.environ.get('CUDA_VISIBLE_DEVICES') == '':\n    time.sleep(60)", "it did not load within 1 s"),
    ],
    ids=["import", "exit", "hang"],
)
def test_where_the_module_cannot_be_loaded_the_answer_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, why: str
) -> None:
    if "60" in code:
        monkeypatch.setattr(proof, "DEADLINE_S", 1)
    project = made(tmp_path, code)

    reply = applied(project)

    assert len(reply.applied) == 3
    assert [one for one in reply.warnings if "could not be loaded to prove the edit" in one and why in one]


def test_all_files_together_have_a_time_after_which_their_text_alone_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "WHOLE_S", 0)
    reply = applied(made(tmp_path, ""))

    assert len(reply.applied) == 3
    assert [one for one in reply.warnings if "no time was left" in one]
