"""Waveforms and mel spectrograms in plain numpy.

Waveforms are float32 arrays of shape (samples,), mono, within [-1, 1].
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Wave = NDArray[np.float32]
Matrix = NDArray[np.float32]

SYNTHESIS_RATE = 24_000
"""Hz, what the synthesiser produces."""
ANALYSIS_RATE = 16_000
"""Hz, what the recogniser and both scoring networks expect."""

_UP, _DOWN = 2, 3  # 24 kHz -> 48 kHz -> 16 kHz
_HALF_TAPS = 60  # of the low-pass at 48 kHz


@lru_cache(maxsize=1)
def _low_pass() -> NDArray[np.float64]:
    """Windowed-sinc low-pass at 48 kHz, cut-off just under 8 kHz, gain `_UP`; shape (2 * _HALF_TAPS + 1,)."""
    cutoff = 0.95 / _DOWN  # as a fraction of the 24 kHz Nyquist frequency
    steps = np.arange(-_HALF_TAPS, _HALF_TAPS + 1)
    taps: NDArray[np.float64] = _UP * cutoff * np.sinc(cutoff * steps) * np.kaiser(steps.size, 8.0)
    return taps


def to_analysis_rate(wave: Wave) -> Wave:
    """Resample a 24 kHz waveform to 16 kHz; shape (n,) -> (ceil(2 n / 3),)."""
    stuffed = np.zeros(wave.size * _UP)
    stuffed[::_UP] = wave
    filtered = np.convolve(stuffed, _low_pass(), mode="same")[::_DOWN]
    return np.clip(filtered, -1.0, 1.0).astype(np.float32)


def to_pcm16(wave: Wave, silence_s: float) -> bytes:
    """Little-endian 16-bit PCM of a 16 kHz waveform with `silence_s` seconds of silence at both ends."""
    padding = np.zeros(round(silence_s * ANALYSIS_RATE), np.float32)
    padded = np.concatenate([padding, wave, padding])
    return np.round(padded * 32767.0).astype("<i2").tobytes()


def _hz_to_mel(hz: NDArray[np.float64]) -> NDArray[np.float64]:
    """Slaney's mel scale: linear up to 1 kHz (mel 15), logarithmic above."""
    logarithmic = 15.0 + 27.0 * np.log(np.maximum(hz, 1000.0) / 1000.0) / np.log(6.4)
    return np.where(hz < 1000.0, hz * 3.0 / 200.0, logarithmic)


def _mel_to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inverse of `_hz_to_mel`."""
    logarithmic = 1000.0 * np.exp(np.log(6.4) * (np.maximum(mel, 15.0) - 15.0) / 27.0)
    return np.where(mel < 15.0, mel * 200.0 / 3.0, logarithmic)


@lru_cache(maxsize=2)
def _mel_filters(n_fft: int, n_mels: int) -> NDArray[np.float64]:
    """Area-normalised triangular filters from 0 Hz to 8 kHz; shape (n_fft // 2 + 1, n_mels)."""
    nyquist = ANALYSIS_RATE / 2
    bins = np.arange(n_fft // 2 + 1)[:, None] * (ANALYSIS_RATE / n_fft)
    top = _hz_to_mel(np.array([nyquist]))[0]
    edges = _mel_to_hz(np.linspace(0.0, top, n_mels + 2))
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rising = (bins - low) / (centre - low)
    falling = (high - bins) / (high - centre)
    return np.maximum(0.0, np.minimum(rising, falling)) * (2.0 / (high - low))


def mel_power(wave: Wave, n_fft: int, hop: int, n_mels: int) -> Matrix:
    """Mel power spectrogram of a 16 kHz waveform, frames centred on multiples of `hop` samples.

    Hann window of `n_fft` samples, zero padding at the ends; shape (1 + samples // hop, n_mels).
    """
    padded = np.pad(wave.astype(np.float64), n_fft // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop]
    window = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(n_fft) / n_fft)
    power = np.abs(np.fft.rfft(frames * window, axis=1)) ** 2
    return (power @ _mel_filters(n_fft, n_mels)).astype(np.float32)
