"""Speech to text: pocketsphinx with its bundled US English models, one decoder to a process.

The decoder gains little from threads. Its processes are spawned, not forked, because onnxruntime's
threads may already be running in the parent.
"""

from __future__ import annotations

import multiprocessing
import queue
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

from speechkit.audio import Wave, to_pcm16

SILENCE_S = 0.25  # without it the first word is often lost
START_TIMEOUT_S = 120.0
JOIN_TIMEOUT_S = 10.0


def _serve(requests: Connection) -> None:
    """Body of a decoder process: PCM bytes in, text out, until the other end closes."""
    from pocketsphinx import Decoder

    decoder = Decoder(samprate=16000, loglevel="FATAL")
    requests.send("ready")
    while True:
        try:
            pcm = requests.recv_bytes()
        except EOFError:  # also when the parent was killed
            return
        decoder.start_utt()
        # The whole utterance at once: its own mean is then removed, not that of earlier ones.
        decoder.process_raw(pcm, full_utt=True)
        decoder.end_utt()
        hypothesis = decoder.hyp()
        requests.send(hypothesis.hypstr if hypothesis else "")


class Recogniser:
    """A pool of running decoder processes. Safe to call from several threads."""

    def __init__(self, decoders: list[Connection]) -> None:
        self._idle: queue.SimpleQueue[Connection] = queue.SimpleQueue()
        for decoder in decoders:
            self._idle.put(decoder)

    def transcribe(self, wave: Wave) -> str:
        """Words heard in a 16 kHz waveform, lower case, separated by spaces; waits for an idle decoder.

        Raises EOFError or OSError if the decoder's process has died.
        """
        decoder = self._idle.get()
        try:
            decoder.send_bytes(to_pcm16(wave, SILENCE_S))
            text: str = decoder.recv()
        finally:
            self._idle.put(decoder)
        return text


@contextmanager
def running_recogniser(processes: int) -> Iterator[Recogniser]:
    """Start that many decoders, wait until all are loaded, and join every process at the end.

    Raises TimeoutError if a decoder is not ready within START_TIMEOUT_S, EOFError if one dies before.
    """
    context = multiprocessing.get_context("spawn")
    workers = []
    decoders: list[Connection] = []
    try:
        for number in range(processes):
            here, there = context.Pipe()
            worker = context.Process(target=_serve, args=(there,), name=f"decoder-{number}", daemon=True)
            worker.start()
            there.close()  # ours only; else its end would not be seen
            workers.append(worker)
            decoders.append(here)
        for decoder in decoders:
            if not decoder.poll(START_TIMEOUT_S):
                raise TimeoutError(f"a decoder was not ready after {START_TIMEOUT_S:.0f} s")
            decoder.recv()
        yield Recogniser(decoders)
    finally:
        for decoder in decoders:
            decoder.close()
        for worker in workers:
            worker.join(JOIN_TIMEOUT_S)
            if worker.is_alive():
                worker.kill()
                worker.join()
