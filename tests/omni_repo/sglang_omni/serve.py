"""``sgl-omni serve``: one model server. It prints what the real engine prints, and computes nothing."""

import argparse
import os
import signal
import sys
import time

from sglang_omni.trouble import met
from sglang_omni.wire import serve


def say(text):
    print(time.strftime("[%Y-%m-%d %H:%M:%S] ") + text, flush=True)


def load():
    """From nothing to ready, with all that can go wrong on the way."""
    say("Load weight begin. avail mem=94.53 GB")
    shards = 15 if met("slow") else 3
    pace = "10.41s/it" if shards == 15 else " 1.13s/it"
    for done in range(1, shards + 1):
        share = done * 100 // shards
        print(f"Loading safetensors checkpoint shards: {share:3d}% Completed | {done}/{shards} [00:01<00:02, {pace}]")
    if met("exits"):
        print(
            "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static. "
            "Current value: self.server_args.mem_fraction_static=0.85",
            flush=True,
        )
        sys.exit(1)
    say("Capture cuda graph begin. This can take up to several minutes. avail mem=30.11 GB")
    print("Capturing batches (bs=1 avail_mem=29.40 GB): 100%|##########| 23/23 [00:04<00:00,  5.10it/s]", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model-path")
    parser.add_argument("--model-name")
    parser.add_argument("--port", type=int)
    options, more = parser.parse_known_args()
    load()
    if "--thinker-tp-size" in more:
        say("scheduler up tp_rank=0/2")
        say("scheduler up tp_rank=1/2")
    sick = met("unhealthy")

    def answer(path):
        if path == "/health":
            return (503, {"status": "starting"}) if sick else (200, {"status": "healthy"})
        if met("dies"):
            os.kill(os.getpid(), signal.SIGKILL)
        say("Decode batch, #running-req: 8, #token: 4096, token usage: 0.02, cuda graph: True, #queue-req: 0")
        return 200, {"model": options.model_name}

    say("The server is fired up and ready to roll!")
    serve(options.port, answer)


main()
