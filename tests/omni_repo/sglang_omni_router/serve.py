"""The router: starts its workers with the console script of the environment, and shares requests among them."""

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from sglang_omni.trouble import met
from sglang_omni.wire import ask, healthy, serve


def launch(config, workers):
    """One process group for each worker, written down so that the tests can end what is left."""
    ports = [int(config["worker_base_port"]) + n for n in range(int(config["num_workers"]))]
    if met("ports"):
        raise RuntimeError(f"worker ports are already in use: {', '.join(map(str, ports))}")
    if shutil.which("sgl-omni") is None:
        raise RuntimeError("'sgl-omni' was not found on PATH")
    for number, port in enumerate(ports):
        model = config["model_path"]
        words = ["sgl-omni", "serve", "--model-path", model, "--port", str(port), "--model-name", config["model_name"]]
        words += shlex.split(config["worker_extra_args"].strip("'"))
        print(f"INFO:     Starting managed Omni worker {number} on http://127.0.0.1:{port}: {shlex.join(words)}", flush=True)
        workers[port] = subprocess.Popen(words, start_new_session=True)
        with Path(os.environ["SGLANG_OMNI_ROUTER_CLEANUP_MANIFEST"]).open("a") as manifest:
            manifest.write(f"{workers[port].pid}\n")
    end = time.monotonic() + float(config["wait_timeout"])
    for port, process in workers.items():
        url = f"http://127.0.0.1:{port}"
        while not healthy(port):
            if process.poll() is not None:
                code = process.returncode
                raise RuntimeError(f"managed worker {url} exited before becoming healthy (exit_code={code})")
            if time.monotonic() > end:
                raise RuntimeError(f"managed worker {url} did not become healthy: last status 503")
            time.sleep(0.02)
        print(f"INFO:     Managed Omni worker is healthy: {url}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    parser.add_argument("--launcher-config")
    options = parser.parse_args()
    text = Path(options.launcher_config).read_text()
    config = dict(line.strip().split(": ", 1) for line in text.splitlines()[1:])
    workers = {}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        print(f"INFO:     Starting managed Omni V1 workers from {options.launcher_config}", flush=True)
        launch(config, workers)
        routed = {port: {"routed_requests": 0, "failed_requests": 0} for port in workers}
        unroutable = met("unroutable")

        def answer(path):
            if path == "/health":
                return 200, {"status": "healthy"}
            if path == "/workers":
                states = [{"display_id": f"127.0.0.1:{port}", **counts} for port, counts in routed.items()]
                return 200, {"routable_workers": len(workers) - unroutable, "workers": states}
            port = min(routed, key=lambda one: routed[one]["routed_requests"])
            routed[port]["routed_requests"] += 1
            try:
                return ask(port, path)
            except OSError:
                routed[port]["failed_requests"] += 1
                print(f"WARNING:  Worker 127.0.0.1:{port} request failed: Server disconnected", flush=True)
                return 502, {"error": "upstream worker disconnected"}

        serve(options.port, answer)
    except RuntimeError as error:
        parser.exit(1, f"error: {error}\n")
    finally:
        for process in workers.values():
            process.terminate()
        for process in workers.values():
            process.wait(10)


main()
