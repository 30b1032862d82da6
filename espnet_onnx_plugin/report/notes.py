"""Notes below the tables, on how their figures are to be read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from espnet_onnx_plugin.report.results import (
    DIARIZATION_SCORES,
    SINGING_SCORES,
    TIE,
    Result,
    agrees_with,
    compared_with,
    scored,
)
from espnet_onnx_plugin.runtime.core.arithmetic import WIDE

# Layers kept in higher precision that are named; the manifest names all.
KEPT_NAMED = 5


def notes(results: list[Result]) -> Iterator[str]:
    """Yield what a reader of the figures has to know about them."""
    scorers = sorted(frozenset().union(*(r.scorers for r in results)))
    if scorers:
        yield f"Error rates from the raw counts of: {', '.join(scorers)}."
    if any(r.speakers > 1 for r in results):
        yield (
            "Several speakers: error rates are those of each utterance's best "
            "assignment to the references; identical and tied is what is so for every "
            "speaker."
        )
    if failed := [r for r in results if r.failed]:
        named = [f"{r.test_set}, {r.system}: {r.failed}" for r in failed]
        yield (
            "Utterances without a result, as --onnx_max_failures allows: "
            f"{'; '.join(named)}. Words that were said there count as deleted; other "
            "scores are of the utterances that have one."
        )
    signatures = {
        f"{name}: {bleu.signature}" for r in results for name, bleu in r.bleu.items()
    }
    if signatures:
        yield f"By sacrebleu, {'; '.join(sorted(signatures))}."
        if scorers:
            yield "Error rates are those of the recognition in the source language."
    if any(r.identical is not None for r in results):
        yield (
            "Identical: share of utterances with the same token_int as PyTorch's. "
            f"Ties: others that score as PyTorch's, to {TIE:g}."
        )
    names = {*scored(results)}
    if names & SINGING_SCORES.keys():
        yield (
            "Semitone accuracy (the higher the better) and V/UV error (the lower) are "
            "means over all songs, by ESPnet's own scoring stage, against recordings."
        )
    if "der" in names:
        yield (
            "DER: diarization error rate, by ESPnet's own scoring stage: the lowest of "
            "its thresholds and median filters."
        )
    if "activities" in names:
        yield (
            "Same activities: share of the decisions, of each speaker at each frame, "
            "that are PyTorch's; those of a speaker that only one has found are not."
        )
    if names - SINGING_SCORES.keys() - DIARIZATION_SCORES.keys():
        yield (
            "Scores are means over utterances and speakers, by ESPnet's own scoring "
            "stage, against clean speech; STOI in percent."
        )
    for other in agrees_with(results):
        yield (
            f"SNR to {other}: energy of its waveforms over that of the difference from "
            "them, as written into the files, over all utterances and speakers. inf: "
            "no sample differs; 40 dB: the difference is 1 % of the amplitude."
        )
    if any(r.measured for r in results):
        sets = dict.fromkeys(f"{r.test_set} {r.measured}" for r in results)
        yield (
            "Of each test set some utterances, spread over it, were measured: "
            f"{', '.join(sets)}."
        )
    if compared_with(results):
        yield (
            "MCD: mel-cepstral distortion, the energy included; log-F0 RMSE: root mean "
            "square error of the natural logarithm of F0 where both are voiced; frames "
            "are aligned by dynamic time warping, settings as in ESPnet's evaluation. "
            "Noise that a model draws is PyTorch's where jobs are split as PyTorch's; "
            "otherwise, and in Griffin-Lim's first phases, it is other noise, which "
            "these figures show too."
        )
    if any(r.measured and r.errors for r in results):
        yield (
            "CER: of what the ASR model hears, both texts in lower case, without "
            "punctuation, the space between words a character."
        )
    samples = dict.fromkeys(
        f"{r.test_set} {r.timing.utterances}" for r in results if r.timing
    )
    if samples:
        yield (
            "RTF (decoding time over the audio's length), speed-up and peak memory: "
            "each system decodes the same sample of a test set in one process, one "
            f"system after the other (utterances: {', '.join(samples)})."
        )
    if any(r.streams for r in results):
        yield (
            "Streams: audio comes in parts (chunk s), at the speed of speech. First "
            "partial and last word: median seconds, over the same sample, from the "
            "first spoken frame to the first words, and from the last spoken frame to "
            "the last change of the words; both wait for audio and for computation, "
            "and spoken is what the CTC takes for a token. Flicker: words that were "
            "shown and taken back for each word of the results. Front end espnet: its "
            "results depend on the chunks; exact: frames of the whole utterance, "
            "however it is cut."
        )
    if any(r.timing and r.timing.first_audio_seconds is not None for r in results):
        yield (
            "First audio: median time to the first piece of a waveform; PyTorch gives "
            "it in one piece."
        )
    yield from _arithmetic(results)
    for system, figures in {r.system: r.quantization for r in results}.items():
        if figures is not None:
            yield f"{system}: {_quantization(figures)}"


def _arithmetic(results: list[Result]) -> Iterator[str]:
    """Yield what the timed products were computed in, where any was not fp32."""
    systems: dict[str, list[str]] = {}
    known = {r.system: r.timing.arithmetic for r in results if r.timing}
    for system, arithmetic in known.items():
        if arithmetic is not None:
            systems.setdefault(arithmetic, []).append(system)
    if systems.keys() <= {"fp32"}:
        return
    named = [f"{name} ({', '.join(who)})" for name, who in systems.items()]
    note = f"Products were computed in: {', '.join(named)}."
    if WIDE in systems:
        note += (
            " 8-bit ones saturate on the processor that was timed; in 16 bits they are "
            "slower, with the same result."
        )
    yield note


def _quantization(figures: Mapping[str, Any]) -> str:
    """Return how a quantized model stands to its budget, and what that took."""
    if figures["budget"] is None:
        parts = ["no budget was measured, for there was no validation set"]
    else:
        parts = [f"validation set, {figures['utterances']} utterances"]
        budget = figures["budget"]
        for rate in ("wer", "cer"):
            if rate in figures:
                parts.append(
                    f"{rate.upper()} {figures[f'{rate}_fp32']:.2f} % in fp32, "
                    f"{figures[rate]:.2f} % here (budget "
                    f"{budget[f'max_{rate}_increase']:+.2f})"
                )
        if "token_agreement" in figures:
            parts.append(
                f"{100 * figures['token_agreement']:.2f} % of fp32's tokens (budget "
                f"{100 * budget['min_token_agreement']:.2f} %)"
            )
        if "mcd" in figures:
            parts.append(
                f"MCD to fp32 {figures['mcd']:.2f} dB (budget {budget['max_mcd']:.2f})"
            )
        if "log_f0_rmse" in figures:
            parts.append(
                f"log-F0 RMSE to fp32 {figures['log_f0_rmse']:.3f} (budget "
                f"{budget['max_log_f0_rmse']:.3f})"
            )
        parts += _enhanced(figures)
        parts += _diarized(figures)
        if len(parts) == 1:
            parts.append("none of them long enough to be measured")
    kept = [
        f"{len(layers)} layers in {form} ({', '.join(layers[:KEPT_NAMED])}"
        f"{', ...' * (len(layers) > KEPT_NAMED)})"
        for form, layers in figures["kept"].items()
    ]
    parts.append(f"kept: {' and '.join(kept)}" if kept else "no layer kept back")
    if figures.get("emulated"):
        parts.append("measured in arithmetic that a CPU emulates, its speed was not")
    if "provider" in figures:
        parts.append(f"measured on {figures['provider']}")
    if figures.get("slower"):
        parts.append(
            "slower than fp32 on the machine that made it "
            f"({figures['speed_ratio']:.2f}x)"
        )
    return "; ".join(parts) + "."


def _enhanced(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield how enhanced speech of a quantized model stands to its budget."""
    budget = figures["budget"]
    if "si_snr" in figures:
        yield (
            f"SI-SNR {figures['si_snr_fp32']:.2f} dB in fp32, {figures['si_snr']:.2f} "
            f"dB here (budget {-budget['max_si_snr_decrease']:+.2f})"
        )
        yield (
            f"STOI {100 * figures['stoi_fp32']:.2f} % in fp32, "
            f"{100 * figures['stoi']:.2f} % here (budget "
            f"{-100 * budget['max_stoi_decrease']:+.2f})"
        )
    elif "agreement" in figures:
        yield (
            f"SI-SNR to fp32 {figures['agreement']:.1f} dB (budget at least "
            f"{budget['min_agreement']:.1f})"
        )


def _diarized(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield how the speakers of a quantized model stand to their budget."""
    budget = figures["budget"]
    if "activity_agreement" in figures:
        yield (
            f"as many speakers in {figures['same_speakers']}, "
            f"{100 * figures['activity_agreement']:.2f} % of fp32's activities (budget "
            f"{100 * budget['min_activity_agreement']:.2f} %)"
        )
    if "separation_agreement" in figures:
        yield (
            f"SI-SNR to fp32 {figures['separation_agreement']:.1f} dB (budget at least "
            f"{budget['min_separation_agreement']:.1f})"
        )
