"""Predicted opinion score: the DNSMOS P.808 network from the speechmos wheel.

Only its ONNX file is used. The package itself is never imported: it needs librosa, which it does not declare.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from speechkit.audio import ANALYSIS_RATE, Matrix, Wave, mel_power

WINDOW = int(9.01 * ANALYSIS_RATE)  # samples the network was trained on
_N_FFT, _HOP, _MELS = 321, 160, 120
_FLOOR = 1e-10
_RANGE_DB = 80.0


def _model_path() -> Path:
    """Where the wheel keeps the P.808 network."""
    spec = find_spec("speechmos")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("speechmos is not installed: see requirements.txt")
    return Path(spec.origin).parent / "dnsmos_models" / "model_v8.onnx"


def _features(window: Wave) -> Matrix:
    """Mel levels relative to the loudest, 80 dB range, scaled as in training; shape (900, 120)."""
    level = 10.0 * np.log10(np.maximum(mel_power(window[:-_HOP], _N_FFT, _HOP, _MELS), _FLOOR))
    level = np.maximum(level - level.max(), -_RANGE_DB)
    scaled: Matrix = ((level + 40.0) / 40.0).astype(np.float32)
    return scaled


class MosPredictor:
    """The network, loaded."""

    def __init__(self) -> None:
        from onnxruntime import InferenceSession, SessionOptions

        options = SessionOptions()
        options.intra_op_num_threads = 1
        self._network = InferenceSession(str(_model_path()), options, providers=["CPUExecutionProvider"])

    def score(self, wave: Wave) -> float:
        """Mean opinion score (about 1 to 5) of the first 9.01 s of a 16 kHz waveform; a shorter one is repeated."""
        window = np.resize(wave, WINDOW)
        (scores,) = self._network.run(None, {"input_1": _features(window)[None]})
        return float(scores[0, 0])
