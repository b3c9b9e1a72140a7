"""Text to speech: hibari's bundled voice "heart"."""

from __future__ import annotations

from speechkit.audio import Wave

VOICE = "heart"  # the one voice inside the wheel; every other one is a download


class Synthesiser:
    """The voice, loaded and warmed up. Safe to call from several threads."""

    def __init__(self) -> None:
        from hibari import Hibari

        self._voice = Hibari(voice=VOICE, threads=1)
        self._voice("Warm up.", seed=0)  # the lexicon is read at the first call

    def speak(self, text: str, seed: int | None = None) -> Wave:
        """Speak `text` at 24 kHz. Without `seed` the noise in the voice is new at every call.

        Raises ValueError if nothing audible comes out.
        """
        wave: Wave = self._voice(text, seed=seed)
        if not wave.any():
            raise ValueError(f"no audio for {text!r}")
        return wave
