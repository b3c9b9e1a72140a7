"""A job without numbers: it writes down how it was launched."""

import json
import os
from pathlib import Path


def test_docs(tmp_path_factory):
    kernels = Path(os.environ["XDG_CACHE_HOME"]) / "flashinfer"
    warm = [path.name for path in kernels.iterdir()] if kernels.is_dir() else []
    kernels.mkdir(parents=True, exist_ok=True)
    (kernels / "kernel.so").write_text("compiled")
    told = {"env": dict(os.environ), "cwd": os.getcwd(), "warm": warm}
    secret = told["env"].pop("HTTPS_PROXY", None)
    assert secret in (None, "http://u:" + "p@proxy:1")
    (tmp_path_factory.getbasetemp() / "told.json").write_text(json.dumps(told))
