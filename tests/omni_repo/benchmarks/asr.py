"""How many transcriptions run at once, for word error rates: not the concurrency of what is measured."""

import os

QWEN3_ASR_MODEL_PATH = os.getenv("QWEN3_ASR_MODEL_PATH", "Qwen/Qwen3-ASR-1.7B")
DEFAULT_ASR_TRANSCRIBE_CONCURRENCY = int(
    os.getenv("QWEN3_ASR_CONCURRENCY", os.getenv("SEEDTTS_ASR_CONCURRENCY", "32")),
)
