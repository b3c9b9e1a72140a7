"""A router with its workers, for one module of tests."""

import os
import signal
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving import start_server, stop_server
from sglang_omni.wire import ask, free_ports

WAIT_TIMEOUT = 20


@dataclass
class Router:
    proc: object
    port: int
    manifest: Path
    stopped: bool = False

    def stop(self):
        if not self.stopped:
            stop_server(self.proc)
            end_groups(self.manifest)
        self.stopped = True


def end_groups(manifest):
    """Worker groups that outlived their router."""
    for line in manifest.read_text().splitlines() if manifest.exists() else ():
        try:
            os.killpg(int(line), signal.SIGTERM)
        except ProcessLookupError:
            continue


def patience():
    """Seconds until a server must be healthy; few where it is known beforehand that it will not be."""
    trouble = Path(os.environ["HOME"]).parent / "trouble"
    return 2 if any((trouble / name).exists() for name in ("unhealthy", "unroutable")) else WAIT_TIMEOUT


@contextmanager
def launch_managed_router(tmp_path_factory, model_path, model_name, worker_extra_args="", num_workers=2):
    first, *others, router_port = free_ports(num_workers + 1)
    timeout = patience()
    manifest = tmp_path_factory.mktemp("omni_router_cleanup") / "router_pgids.txt"
    launcher = tmp_path_factory.mktemp("omni_router_launcher") / "launcher.yaml"
    facts = {
        "backend": "local", "model_path": model_path, "model_name": model_name, "num_workers": num_workers,
        "num_gpus_per_worker": 1, "worker_host": "127.0.0.1", "worker_base_port": first,
        "worker_extra_args": worker_extra_args or "''", "wait_timeout": timeout,
    }  # fmt: skip
    launcher.write_text("launcher:\n" + "".join(f"  {key}: {value}\n" for key, value in facts.items()))
    cmd = [sys.executable, "-S", "-m", "sglang_omni_router.serve", "--port", str(router_port)]
    cmd += ["--launcher-config", str(launcher)]
    router = None
    try:
        env = {"SGLANG_OMNI_ROUTER_CLEANUP_MANIFEST": str(manifest)}
        proc = start_server(cmd, router_port, WAIT_TIMEOUT, env)
        with manifest.open("a") as out:
            out.write(f"{proc.pid}\n")
        router = Router(proc, router_port, manifest)
        end = time.monotonic() + timeout
        while (told := ask(router_port, "/workers")[1])["routable_workers"] != num_workers:
            if time.monotonic() > end:
                raise TimeoutError(f"router workers did not become fully routable: {told}")
            time.sleep(0.02)
        print(f"[Omni Router CI] topology router_port={router_port} worker_ports={[first, *others]} launcher_config={launcher}")
        yield router
    finally:
        if router is not None:
            router.stop()
        end_groups(manifest)


def assert_workers_served(router, collector):
    """No request failed and no worker stood idle."""
    workers = ask(router.port, "/workers")[1]["workers"]
    print(f"[Omni Router CI] /workers {workers}")
    collector.check(all(one["routed_requests"] for one in workers), f"a worker served nothing: {workers}")
    collector.check(not any(one["failed_requests"] for one in workers), f"Router recorded request failures: {workers}")
