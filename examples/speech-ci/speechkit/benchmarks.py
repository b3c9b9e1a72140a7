"""The two measurements behind the tests. Each runs everything, then writes all its files, and asserts nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from speechkit.audio import ANALYSIS_RATE, SYNTHESIS_RATE, Wave, to_analysis_rate
from speechkit.closed_loop import Reply, run_closed_loop
from speechkit.mos import MosPredictor
from speechkit.recogniser import running_recogniser
from speechkit.results import Results, Summary, print_summary, write_results
from speechkit.scoring import mean_score, speed, word_errors
from speechkit.sentences import ENROLMENT, first_sentences
from speechkit.similarity import VoiceEncoder, cosine
from speechkit.synthesiser import Synthesiser


def run_asr_benchmark(folder: Path, samples: int, concurrency: int) -> dict[str, Summary]:
    """Recognise `samples` sentences spoken with fixed seeds, `concurrency` at a time, a process each.

    Writes `speed_results.json` and `wer_results.json` into `folder` and returns their summaries by kind.
    The audio is made and the decoders are loaded before the clock starts.
    """
    sentences = first_sentences(samples)
    synthesiser = Synthesiser()
    waves = [to_analysis_rate(synthesiser.speak(text, seed)) for seed, text in enumerate(sentences)]
    with running_recogniser(concurrency) as recogniser:
        heard = run_closed_loop(recogniser.transcribe, waves, concurrency)
    return _publish(
        folder,
        {
            "speed": speed(heard, [wave.size / ANALYSIS_RATE for wave in waves], concurrency),
            "wer": word_errors(sentences, heard.replies),
        },
    )


def run_tts_benchmark(folder: Path, samples: int, concurrency: int) -> dict[str, Summary]:
    """Speak `samples` sentences with fresh noise, `concurrency` at a time, then judge the audio.

    Writes `speed`, `wer`, `mos` and `similarity` `_results.json` into `folder` and returns their
    summaries by kind. Only the synthesis is timed.
    """
    sentences = first_sentences(samples)
    synthesiser = Synthesiser()
    spoken = run_closed_loop(synthesiser.speak, sentences, concurrency)
    lengths = [None if reply.answer is None else reply.answer.size / SYNTHESIS_RATE for reply in spoken.replies]
    audio = run_closed_loop(lambda reply: to_analysis_rate(reply.unwrap()), spoken.replies, concurrency).replies
    with running_recogniser(concurrency) as recogniser:
        heard = run_closed_loop(lambda reply: recogniser.transcribe(reply.unwrap()), audio, concurrency)
    return _publish(
        folder,
        {
            "speed": speed(spoken, lengths, concurrency),
            "wer": word_errors(sentences, heard.replies),
            "mos": mean_score("mos", _opinions(audio)),
            "similarity": mean_score("similarity", _similarities(audio, synthesiser)),
        },
    )


def _opinions(audio: Sequence[Reply[Wave]]) -> list[Reply[float]]:
    """Predicted opinion score of each waveform."""
    predictor = MosPredictor()
    return run_closed_loop(lambda reply: predictor.score(reply.unwrap()), audio, concurrency=1).replies


def _similarities(audio: Sequence[Reply[Wave]], synthesiser: Synthesiser) -> list[Reply[float]]:
    """Similarity of each waveform to the same voice as it speaks the enrolment sentences."""
    encoder = VoiceEncoder()
    enrolment = [to_analysis_rate(synthesiser.speak(text, seed)) for seed, text in enumerate(ENROLMENT)]
    voice = encoder.embed_speaker(enrolment)
    return run_closed_loop(lambda reply: cosine(encoder.embed(reply.unwrap()), voice), audio, concurrency=1).replies


def _publish(folder: Path, results: dict[str, Results]) -> dict[str, Summary]:
    """Write every result file, show the summaries, and return them."""
    for kind, result in results.items():
        write_results(folder / f"{kind}_results.json", result)
    for kind, result in results.items():
        print_summary(f"{folder.name} {kind}", result["summary"])
    return {kind: result["summary"] for kind, result in results.items()}
