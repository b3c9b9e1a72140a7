"""What the benchmarks measure and write: summaries, configurations, and one record for each request."""

import csv
import json
import random
import statistics
import struct
import tempfile
import wave
from pathlib import Path

from benchmarks.asr import DEFAULT_ASR_TRANSCRIBE_CONCURRENCY, QWEN3_ASR_MODEL_PATH
from sglang_omni.wire import ask

BATCH = 64
META = "zhaochenyang20/seed-tts-eval-arrow"
TEXT = "the quick brown fox jumps over the lazy dog near the old stone bridge"


def save(results, folder, name):
    """As a browser or jq would refuse it, and as Python's json writes it: with Infinity."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    path = Path(folder) / name
    with path.open("w") as out:
        json.dump(results, out, indent=2, ensure_ascii=False)
    print(f"Results saved to {path}")


def table(rows, folder, name):
    with (Path(folder) / name).open("w", newline="") as out:
        writer = csv.DictWriter(out, [key for key in rows[0] if not isinstance(rows[0][key], list)], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def near(value, spread=0.03):
    return value * random.uniform(1 - spread, 1 + spread)


def served(port, count):
    """Which of ``count`` requests came back; sent in batches."""
    good, batch = [], min(BATCH, max(1, count // 4))  # so that each worker has some
    for first in range(0, count, batch):
        status, _ = ask(port, f"/v1/generate?first={first}")
        good += [status == 200] * min(batch, count - first)
    return good


def spread_of(name, values, digits=4):
    ranked = sorted(values) or [0.0]
    points = {"median": 0.5, "p95": 0.95, "p99": 0.99}
    found = {f"{name}_mean_s": round(statistics.fmean(ranked), digits)}
    return found | {f"{name}_{key}_s": round(ranked[int(share * (len(ranked) - 1))], digits) for key, share in points.items()}


def ratios(values):
    return {key.removesuffix("_s"): value for key, value in spread_of("rtf", values).items()}


def write_wav(path, seconds=0.02):
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(24000)
        out.writeframes(struct.pack("<h", 0) * int(seconds * 24000))


def stage_audio(prefix, count):
    """The data set's audio as files of their own; nobody takes this folder away."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    for number in range(count):
        (folder / f"{number:04}.mp3").write_bytes(b"ID3")
    return folder


def speed_summary(requests, qps, *, tokens, audio):
    """The keys that a speed summary has with and without speech, with and without token counts."""
    good = [one for one in requests if one["is_success"]]
    found = {
        "total_requests": len(requests),
        "completed_requests": len(good),
        "failed_requests": len(requests) - len(good),
        **spread_of("latency", [one["latency_s"] for one in good], 3),
        "audio_duration_mean_s": round(statistics.fmean([one["audio_duration_s"] for one in good]), 3) if audio else 0,
        **(ratios([one["rtf"] for one in good]) if audio else dict.fromkeys(("rtf_mean", "rtf_median", "rtf_p95", "rtf_p99"))),
        "throughput_qps": round(near(qps), 3),
    }
    if tokens:
        found |= {
            "output_tok_per_req_s": round(near(tokens), 1),
            "output_throughput": round(near(tokens * 13), 1),
            "output_tokens_mean": 34.0,
            "output_tokens_total": 34 * len(good),
            "prompt_tokens_mean": 300.0,
            "prompt_tokens_total": 300 * len(good),
        }
    if audio:
        found["audio_throughput_s_per_s"] = round(near(qps * 3.4), 3)
    return found


def request_record(number, ok, wav, *, stream, latency):
    took = near(latency) if ok else 0.0
    return {
        "id": f"common_voice_en_{number:05}-x_{number:05}",
        "text": TEXT,
        "is_success": ok,
        "latency_s": round(took, 4),
        "audio_duration_s": 3.4567 if ok else 0.0,
        "rtf": round(took / 3.4567, 4),
        "prompt_tokens": None if stream else 71,
        "completion_tokens": None if stream else 86,
        "output_token_rate": None if stream else 141.07,
        "wav_path": str(wav),
        "error": None if ok else "502: upstream worker disconnected",
        "audio_ttfp_s": 0.0214 if stream else None,
        "text_ttft_s": None,
        "inter_chunk_s": [0.0041] * (2 + number % 2) if stream else None,
        "audio_chunk_count": 3 if stream else None,
        "first_audio_payload_bytes": 41472 if stream else None,
    }


def synthesise(port, folder, model, config, *, count, qps, tokens, latency, stream=False):
    """Voice cloning: audio files, speed_results.json, generated.json and a table."""
    folder = Path(folder)
    stage_audio("seedtts_en_", count // 32)
    good = served(port, count)
    wavs = [folder / "audio" / f"common_voice_en_{number:05}-x_{number:05}.wav" for number in range(count)]
    for wav in wavs[:50]:
        write_wav(wav)
    requests = [
        request_record(number, ok, wavs[number], stream=stream, latency=latency) for number, ok in enumerate(good)
    ]
    summary = speed_summary(requests, qps, tokens=None if stream else tokens, audio=True)
    if stream:
        summary |= {
            **{f"audio_ttfp_{key}_s": near(0.02) for key in ("mean", "median", "p95", "p99")},
            **{f"inter_chunk_{key}_s": near(0.004) for key in ("mean", "p95", "p99")},
            "audio_chunks_mean": 3.0, "audio_chunks_p95": 3.0,
            "first_audio_payload_bytes_mean": 41472.0, "first_audio_payload_bytes_p95": 52011.5,
        }
    config = {"model": model, "base_url": f"http://localhost:{port}", "meta": META, **config, "stream": stream}
    config["request_rate"] = float("inf")  # as fast as it goes: this is why the file is no JSON for a strict reader
    save({"summary": summary, "config": config, "per_request": requests}, folder, "speed_results.json")
    save(
        [
            {"sample_id": one["id"], "target_text": TEXT, "wav_path": one["wav_path"], "is_success": one["is_success"],
             "latency_s": one["latency_s"], "audio_duration_s": one["audio_duration_s"]}
            for one in requests
        ],
        folder,
        "generated.json",
    )
    table(requests, folder, "results.csv")
    return {"summary": summary, "per_request": requests}


def wer_summary(samples, wer, duration=3.4567):
    """``wer`` is about the share of wrong words; no sample is a catastrophe."""
    worst = max((one["wer"] for one in samples), default=0.0)
    share, done = near(wer), sum(one["is_success"] for one in samples)
    return {
        "lang": "en", "total_samples": len(samples), "evaluated": done, "skipped": len(samples) - done, "wer_corpus": share,
        "wer_per_sample_mean": share, "wer_per_sample_median": 0.0, "wer_per_sample_std": 0.031,
        "wer_per_sample_p95": 0.1, "wer_per_sample_max": worst, "wer_below_50_corpus": share,
        "n_above_50_pct_wer": 0, "pct_above_50_pct_wer": 0.0, "latency_mean_s": near(0.1), "latency_median_s": 0.1,
        "latency_p95_s": 0.12, "rtf_mean": near(0.03), "audio_duration_mean_s": duration,
    }  # fmt: skip


def transcription(number, wer, ok, *, plain=True):
    common = {
        "ref_norm": TEXT, "hyp_norm": TEXT, "audio_duration_s": 3.4567, "is_success": ok,
        "wer": near(wer, 0.9) if number % 9 == 0 else 0.0,
    }
    if plain:
        return {"id": f"validation_{number}", **common, "ref_text": TEXT, "hyp_text": TEXT, "error": ""}
    return {
        "id": f"common_voice_en_{number:05}-x_{number:05}", "target_text": TEXT, "whisper_text": TEXT, **common, "substitutions": 1,
        "deletions": 0, "insertions": 0, "hits": 13, "latency_s": near(0.1), "error": None,
    }


def asr_speed(count, qps):
    latencies = [near(0.05, 0.3) for _ in range(count)]
    return {
        "total_samples": count, "evaluated": count, "skipped": 0,
        **{f"asr_{key}": value for key, value in spread_of("latency", latencies, 6).items()},
        "asr_total_time_s": count / qps, "asr_latency_sum_s": sum(latencies),
        "asr_throughput_samples_per_s": near(qps), "asr_rtf_mean": near(0.02), "asr_rtf_median": near(0.02),
        "asr_audio_processed_s": 3.4567 * count, "asr_model": QWEN3_ASR_MODEL_PATH,
        "asr_concurrency": DEFAULT_ASR_TRANSCRIBE_CONCURRENCY,
    }


def transcribe(port, folder, model, config, *, count, wer):
    """Word errors of saved audio, in the file that voice cloning has for them."""
    samples = [transcription(number, wer * 3, ok, plain=False) for number, ok in enumerate(served(port, count))]
    config = {"model": model, "tts_model": model, "asr_model": QWEN3_ASR_MODEL_PATH, "meta": META, **config}
    config |= {"max_samples": None, "asr_concurrency": DEFAULT_ASR_TRANSCRIBE_CONCURRENCY}
    results = {"summary": wer_summary(samples, wer), "config": config, "per_sample": samples}
    save(results, folder, "wer_results.json")
    table(samples, folder, "wer_results.csv")
    save(asr_speed(count, 80.0), folder, "asr_speed_results.json")
    return results


def similarity(folder, model, *, count, mean, max_samples=None):
    samples = [
        {"id": f"common_voice_en_{n:05}-x_{n:05}", "ref_audio": f"wavs/{n}.wav", "wav_path": f"{folder}/audio/{n}.wav",
         "speaker_similarity": near(mean, 0.2), "is_success": True, "error": None}
        for n in range(count)
    ]
    summary = {"speaker_similarity_mean": near(mean), "total_samples": count, "evaluated": count, "skipped": 0}
    config = {"model": model, "meta": META, "device": "cuda:0", "max_samples": max_samples,
              "similarity_checkpoint": "/wavlm_large_finetune.pth"}
    results = {"summary": summary, "config": config, "per_sample": samples}
    save(results, folder, "similarity_results.json")
    return results


def utmos(folder, model, *, count, mean):
    samples = [
        {"id": f"common_voice_en_{n:05}-x_{n:05}", "wav_path": f"{folder}/audio/{n}.wav", "utmos_score": near(mean),
         "is_success": True, "error": None}
        for n in range(count)
    ]
    summary = {"utmos_mean": near(mean), "utmos_median": near(mean), "utmos_p5": mean * 0.9, "utmos_p95": mean * 1.1,
               "total_samples": count, "evaluated": count, "skipped": 0}
    results = {"summary": summary, "config": {"model": model, "device": "cuda:0"}, "per_sample": samples}
    save(results, folder, "utmos_results.json")
    return results


def answer_record(number, ok, family):
    """One multiple choice question; MMSU names its keys otherwise than the picture and video sets."""
    took = round(near(0.35), 4)
    right = number % 4 != 0
    if family == "mmsu":
        return {
            "sample_id": f"mmsu_{number:04}", "task_name": f"task{number % 5}",
            "category": ("Perception", "Reasoning")[number % 2], "sub_category": "x", "sub_sub_category": "y",
            "linguistics_sub_discipline": "phonetics", "correct_choice": "A", "correct_answer": "a dog",
            "predicted_choice": "A" if right else "B", "predicted_answer": "a dog" if right else "a cat",
            "raw_response": "A", "is_correct": right, "is_parseable": True, "is_success": ok, "latency_s": took,
            "has_audio": False, "audio_duration_s": 0.0, "error": "" if ok else "502",
        }  # fmt: skip
    common = {
        "expected": "A", "latency_s": took, "prompt_tokens": 300, "completion_tokens": 34, "output_token_rate": 596.81,
        "predicted": "A" if right else "B", "raw_response": "Answer: A", "is_correct": right, "is_success": ok,
        "is_mc_fallback": False, "error": "" if ok else "502: upstream worker disconnected",
    }  # fmt: skip
    if family == "mmmu":
        return {"sample_id": f"validation_{number}", "subject": "Art", "question_type": "multiple-choice", **common}
    return {
        "sample_id": f"{number:03}-1", "video_path": f"/videos/v{number}.mp4", "url": "u", "video_id": f"v{number}",
        "question_id": f"{number:03}-1", "duration": "short", "domain": "d", "sub_category": "s", "task_type": "t",
        **common, "audio_duration_s": 3.4567, "rtf": took / 3.4567, "wav_path": f"audio/{number:03}-1.wav",
    }  # fmt: skip


def counts(samples):
    correct = sum(one["is_correct"] for one in samples)
    return {"total": len(samples), "correct": correct, "parseable": len(samples), "accuracy": correct / len(samples)}


def by(samples, key):
    return {name: counts([one for one in samples if one[key] == name]) for name in sorted({one[key] for one in samples})}


def simple(samples, key):
    """As ``by``, without the number of parseable answers."""
    return {name: {k: v for k, v in found.items() if k != "parseable"} for name, found in by(samples, key).items()}


def understand(port, folder, family, *, count, accuracy, qps, tokens, latency, concurrency, speech=False):
    """Questions about audio, pictures or videos, answered in text or in speech as well."""
    folder = Path(folder)
    if family == "mmsu":
        stage_audio("mmsu_audio_", count)
    good = served(port, count)
    samples = [answer_record(number, ok, family) for number, ok in enumerate(good)]
    requests = [request_record(n, ok, "", stream=False, latency=latency) for n, ok in enumerate(good)]
    speed = speed_summary(requests, qps, tokens=tokens, audio=speech)
    share = round(near(accuracy), 4)
    if family == "mmsu":
        done = sum(good)
        summary = {
            "total_samples": count, "parseable_samples": done, "unparseable_samples": 0, "successful_samples": done,
            "failed_samples": count - done, "correct": int(share * count), "incorrect": count - int(share * count),
            "overall_accuracy": share, "per_task": by(samples, "task_name"), "per_category": by(samples, "category"),
            "per_sub_category": by(samples, "sub_category"), "per_sub_sub_category": by(samples, "sub_sub_category"),
            "per_linguistics_sub_discipline": by(samples, "linguistics_sub_discipline"),
        }
        config = {"model": "qwen3-omni", "base_url": f"http://localhost:{port}", "modalities": ["text"],
                  "max_samples": None, "max_tokens": 32, "temperature": 0.0, "seed": None,
                  "asr_concurrency": DEFAULT_ASR_TRANSCRIBE_CONCURRENCY}
        results = {"summary": summary, "config": config, "per_sample": samples, "speed_metrics": speed}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "mmsu_predictions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in samples))
        table(samples, folder, "mmsu_results.csv")
    else:
        summary = {"total_samples": count, "correct": int(share * count), "accuracy": share,
                   "failed": count - sum(good), "mc_fallback": 0}
        config = {"model": "qwen3-omni", "base_url": f"http://localhost:{port}", "max_samples": count,
                  "max_tokens": 256, "temperature": 0.0, "max_concurrency": concurrency, "warmup": 0,
                  "enable_audio": speech, "asr_concurrency": DEFAULT_ASR_TRANSCRIBE_CONCURRENCY}
        if family != "mmmu":
            summary |= {f"per_{key}": simple(samples, key) for key in ("duration", "domain", "task_type")}
            config |= {"repo_id": f"zhaochenyang20/{family}", "split": "test", "video_fps": 2, "video_max_frames": 128,
                       "video_min_pixels": None, "video_max_pixels": 401408, "video_total_pixels": None,
                       "asr_device": "cuda:0", "lang": "en"}
        results = {"summary": summary, "speed": speed, "config": config, "per_sample": samples}
    save(results, folder, f"{family}_results.json")
    if speech:
        for number in range(count):
            write_wav(folder / "audio" / f"{samples[number]['sample_id']}.wav")
    return {**results, "speed": speed}
