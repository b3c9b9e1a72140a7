"""Starting and stopping servers, and the cleanup between two of them."""

import os
import signal
import subprocess
import time
from pathlib import Path

from sglang_omni.wire import healthy

REPO_ROOT = Path(__file__).resolve().parents[1]
GPU_CLEANUP_SCRIPT = REPO_ROOT / ".github/scripts/delete_gpu_process.sh"
GPU_IDLE_THRESHOLD_MB = 2048


def start_server(cmd, port, timeout, env=None, log_file=None):
    """A server in a session of its own, once it is healthy. What it prints goes to the log of pytest, or to a file too."""
    sink = None
    if log_file is not None:
        sink = subprocess.Popen(["tee", str(log_file)], stdin=subprocess.PIPE)
    out = sink.stdin if sink else None
    proc = subprocess.Popen(
        cmd, env={**os.environ, **(env or {})}, start_new_session=True, stdout=out, stderr=subprocess.STDOUT if out else None
    )
    if sink:
        sink.stdin.close()
    base_url = f"http://localhost:{port}"
    end = time.monotonic() + timeout
    try:
        while not healthy(port):
            code = proc.poll()
            if code is not None:
                raise RuntimeError(f"Server exited with code {code}.\n")
            if time.monotonic() > end:
                raise TimeoutError(f"Service at {base_url} not ready within {timeout}s")
            time.sleep(0.02)
    except (RuntimeError, TimeoutError) as error:
        stop_server(proc)
        raise type(error)(str(error)) from error
    return proc


def stop_server(proc):
    """The whole session of a server, gently first."""
    try:
        os.killpg(proc.pid, signal.SIGTERM)
        proc.wait(timeout=30)
    except ProcessLookupError:
        return
    except subprocess.TimeoutExpired:
        os.killpg(proc.pid, signal.SIGKILL)
        proc.wait()


def wait_for_gpu_memory_release(*, memory_threshold_mb=None):
    """End what still holds a GPU; called by the tests themselves between two servers."""
    env = {**os.environ, "OMNI_CI_GPU_MEMORY_CLEAN_THRESHOLD_MB": str(memory_threshold_mb or GPU_IDLE_THRESHOLD_MB)}
    print(f"[gpu cleanup] running ensure_gpus_idle (threshold={GPU_IDLE_THRESHOLD_MB} MiB)...", flush=True)
    done = subprocess.run(["bash", str(GPU_CLEANUP_SCRIPT), "--kill-orphans"], env=env, check=False)
    if done.returncode != 0:
        raise RuntimeError(
            "GPU memory was not released after stopping the inference server. "
            f"delete_gpu_process.sh exit={done.returncode}"
        )
