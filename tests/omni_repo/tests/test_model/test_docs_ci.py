"""A job without numbers: it writes down how it was launched."""

import json
import os
from pathlib import Path


def test_docs(tmp_path_factory):
    # The library itself caches below HOME; jobs of this project also keep kernels in the slice.
    caches = [Path(os.environ["HOME"]) / ".cache/flashinfer", Path(os.environ["XDG_CACHE_HOME"]) / "flashinfer"]
    warm = [str(path) for cache in caches if cache.is_dir() for path in cache.iterdir()]
    for cache in caches:
        cache.mkdir(parents=True, exist_ok=True)
        (cache / "kernel.so").write_text("compiled")
    told = {"env": dict(os.environ), "cwd": os.getcwd(), "warm": warm}
    secret = told["env"].pop("HTTPS_PROXY", None)
    assert secret in (None, "http://u:" + "p@proxy:1")
    (tmp_path_factory.getbasetemp() / "told.json").write_text(json.dumps(told))
