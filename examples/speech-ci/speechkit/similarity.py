"""Speaker similarity: the GE2E voice encoder of the resemblyzer wheel, run in numpy.

Only its weights are used. Neither resemblyzer nor torch is imported, and the checkpoint, a pickle,
is read by an unpickler that knows the three names it needs and refuses every other.
"""

from __future__ import annotations

import math
import pickle
from collections import OrderedDict
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO, ClassVar

import numpy as np
from numpy.typing import NDArray

from speechkit.audio import Matrix, Wave, mel_power

_N_FFT, _HOP, _MELS = 400, 160, 40  # 25 ms windows every 10 ms
_PARTIAL = 160  # frames the encoder was trained on, 1.6 s
_STEP = 77  # frames between two partials, 1.3 a second
_MIN_COVERAGE = 0.75
_LAYERS = 3

Embedding = NDArray[np.float32]


class _FloatStorage:
    """Stands for torch.FloatStorage, which the checkpoint names but whose code is not needed."""


def _rebuild_tensor(
    storage: Matrix, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object
) -> Matrix:
    """A view of `storage`, which is filled only after unpickling; `offset` and `strides` count elements."""
    tensor = storage[offset : offset + math.prod(shape)].reshape(shape)
    if tuple(stride // tensor.itemsize for stride in tensor.strides) != strides:
        raise pickle.UnpicklingError(f"a tensor of shape {shape} has strides {strides}: not contiguous")
    return tensor


class _CheckpointUnpickler(pickle.Unpickler):
    """Reads tensors of 32-bit floats and plain containers, and nothing else."""

    _ALLOWED: ClassVar = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
        ("torch", "FloatStorage"): _FloatStorage,
    }

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.storages: dict[str, Matrix] = {}

    def find_class(self, module: str, name: str) -> object:
        try:
            return self._ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"the checkpoint asks for {module}.{name}") from None

    def persistent_load(self, reference: tuple[str, type, str, str, int, None]) -> Matrix:
        _, kind, key, _, size, _ = reference
        if kind is not _FloatStorage:
            raise pickle.UnpicklingError(f"storage {key} does not hold floats")
        return self.storages.setdefault(key, np.empty(size, np.float32))


def read_checkpoint(path: Path) -> dict[str, Matrix]:
    """Weights by name from a checkpoint in torch's old stream format, key `model_state`.

    The stream: three pickles of format facts, the checkpoint, the storage keys, then for each key a
    64-bit length and the raw values. Raises pickle.UnpicklingError for any other content.
    """
    with path.open("rb") as file:
        for _ in range(3):
            _CheckpointUnpickler(file).load()
        reader = _CheckpointUnpickler(file)
        checkpoint = reader.load()
        for key in _CheckpointUnpickler(file).load():
            storage = reader.storages[key]
            size = int.from_bytes(file.read(8), "little")
            values = np.frombuffer(file.read(size * storage.itemsize), "<f4")
            if values.size != storage.size:
                raise pickle.UnpicklingError(f"storage {key}: {values.size} values, {storage.size} announced")
            storage[:] = values
    weights: dict[str, Matrix] = checkpoint["model_state"]
    return weights


def _weights_path() -> Path:
    """Where the wheel keeps the encoder's checkpoint."""
    spec = find_spec("resemblyzer")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("resemblyzer is not installed: see requirements-nodeps.txt")
    return Path(spec.origin).parent / "pretrained.pt"


def _partials(wave: Wave) -> Matrix:
    """Overlapping mel spectrograms of 1.6 s that cover a waveform; shape (partials, 160, 40).

    The last one is padded with silence, or dropped if less than three quarters of it would be speech.
    """
    frames = math.ceil((wave.size + 1) / _HOP)
    starts = list(range(0, max(1, frames - _PARTIAL + _STEP + 1), _STEP))
    if len(starts) > 1 and (wave.size / _HOP - starts[-1]) / _PARTIAL < _MIN_COVERAGE:
        starts.pop()
    missing = (starts[-1] + _PARTIAL) * _HOP - wave.size
    mel = mel_power(np.pad(wave, (0, max(0, missing))), _N_FFT, _HOP, _MELS)
    return np.stack([mel[start : start + _PARTIAL] for start in starts])


def _sigmoid(x: Matrix) -> Matrix:
    squashed: Matrix = 0.5 * (1.0 + np.tanh(0.5 * x))
    return squashed


def _unit(vector: Embedding) -> Embedding:
    """Scaled to length 1."""
    direction: Embedding = vector / np.linalg.norm(vector)
    return direction


class VoiceEncoder:
    """Three LSTM layers and a projection: a waveform becomes a direction in a space of voices."""

    def __init__(self) -> None:
        self._weights = read_checkpoint(_weights_path())

    def _lstm_layer(self, layer: int, inputs: Matrix) -> Matrix:
        """Hidden states (batch, time, 256) of one layer for inputs (batch, time, features)."""
        weights = self._weights
        from_input = inputs @ weights[f"lstm.weight_ih_l{layer}"].T
        from_input += weights[f"lstm.bias_ih_l{layer}"] + weights[f"lstm.bias_hh_l{layer}"]
        recurrent = weights[f"lstm.weight_hh_l{layer}"].T
        batch, time, width = inputs.shape[0], inputs.shape[1], recurrent.shape[0]
        hidden = np.zeros((batch, width), np.float32)
        cell = np.zeros_like(hidden)
        states = np.empty((batch, time, width), np.float32)
        for step in range(time):
            let_in, forget, candidate, let_out = np.split(from_input[:, step] + hidden @ recurrent, 4, axis=1)
            cell = _sigmoid(forget) * cell + _sigmoid(let_in) * np.tanh(candidate)
            hidden = _sigmoid(let_out) * np.tanh(cell)
            states[:, step] = hidden
        return states

    def embed(self, wave: Wave) -> Embedding:
        """Direction of the voice in a 16 kHz waveform: shape (256,), length 1, no negative component."""
        states = _partials(wave)
        for layer in range(_LAYERS):
            states = self._lstm_layer(layer, states)
        raw = np.maximum(states[:, -1] @ self._weights["linear.weight"].T + self._weights["linear.bias"], 0.0)
        partials = raw / np.linalg.norm(raw, axis=1, keepdims=True)
        return _unit(partials.mean(axis=0))

    def embed_speaker(self, waves: list[Wave]) -> Embedding:
        """Mean direction over several 16 kHz waveforms of one speaker: shape (256,), length 1."""
        return _unit(np.mean([self.embed(wave) for wave in waves], axis=0))


def cosine(first: Embedding, second: Embedding) -> float:
    """Similarity of two embeddings of length 1, from 0 (unlike) to 1 (alike)."""
    return float(first @ second)
