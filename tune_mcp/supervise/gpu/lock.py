"""One consumer for each physical GPU: a host-wide lock beside the host's own (rule GPU-14).

A runner takes the locks of its GPUs and hands them to its pytest: a GPU stays taken until the last of both is gone,
whoever was killed in between.
"""

from __future__ import annotations

import re

from tune_mcp.files import FileLock
from tune_mcp.gpus import Gpu
from tune_mcp.run_dir import RunDir
from tune_mcp.supervise.host_lock import lock_folder, read_holder


def take(gpu: Gpu, run: RunDir) -> FileLock | str:
    """The GPU's lock, or who has it. A lock that cannot be asked is taken: unknown is never free."""
    facts = {"run_id": run.run_id, "run_dir": str(run.path), "repo_root": str(run.repo_root)}
    try:
        path = lock_folder() / f"gpu-{re.sub(r'[^A-Za-z0-9-]', '_', gpu.uuid)}.lock"
        lock = FileLock.take(path, facts)
    except OSError as error:
        return f"somebody unknown: its lock cannot be read ({error})"
    if lock is not None:
        return lock
    holder = read_holder(path)
    return f"run {holder.run_id} of {holder.repo_root}"
