"""What a launch loads is compiled from the tree that it measures, whatever lies in ``__pycache__``."""

from __future__ import annotations

import os
import py_compile
from pathlib import Path

import pytest
import toy

from tune_mcp.session import provenance
from tune_mcp.verbs.strict_audit import strict_audit

USES = toy.toy_source().replace("import pytest\n", "import pytest\n\nfrom tests.helper import SHARE\n", 1)
RIGHT, WRONG = "SHARE = 0.5\n", "SHARE = 0.1\n"


@pytest.mark.rule("SES-11")
@pytest.mark.parametrize("kind", ["same second", "unchecked"])
def test_no_code_of_another_commit_is_loaded_from_a_compiled_file(tmp_path: Path, kind: str) -> None:
    source = USES.replace(
        '    (folder / "result.json")', '    found["summary"]["accuracy"] = SHARE\n    (folder / "result.json")'
    )
    project = toy.make_toy(tmp_path / "repo", test_source=source, files={"tests/helper.py": RIGHT})
    helper = project.repo_root / "tests/helper.py"
    now = helper.stat()
    helper.write_text(WRONG)
    os.utime(helper, ns=(now.st_atime_ns, now.st_mtime_ns))
    unchecked = kind == "unchecked"
    mode = py_compile.PycInvalidationMode
    py_compile.compile(
        str(helper), doraise=True, invalidation_mode=mode.UNCHECKED_HASH if unchecked else mode.TIMESTAMP
    )
    helper.write_text(RIGHT)
    os.utime(helper, ns=(now.st_atime_ns, now.st_mtime_ns))

    run = toy.finished_run(project, 1, toy.real_pytest)

    reply = strict_audit(project, run.run_id)
    assert reply.ready, toy.told(run)
    assert '"accuracy": 0.5' in run.observation("toy_accuracy", 1).read_text()
    assert not provenance.read(project.repo_root).dirty
