"""Whether an architecture exports, and decodes as ESPnet's does."""

import importlib
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from sweeping.architectures import ENHANCEMENT
from sweeping.build import build, lengthen, sharpen, training_config

from espnet_onnx_plugin.evaluate.graphs import WAVEFORM_TOLERANCE, difference
from espnet_onnx_plugin.export.checkpoints import Checkpoints, losses_left_out
from espnet_onnx_plugin.export.export import export_bundle
from espnet_onnx_plugin.export.parity.tolerance import TOLERANCE
from espnet_onnx_plugin.runtime.diar import DiarizeSpeech
from espnet_onnx_plugin.runtime.enhancement.engine import Separator
from espnet_onnx_plugin.runtime.enhancement.inputs import LENGTHS as MIXTURES
from espnet_onnx_plugin.runtime.enhancement.inputs import made_up
from espnet_onnx_plugin.runtime.synthesis.engine import Synthesizer
from espnet_onnx_plugin.tasks import open_model

#: ESPnet's command and class where they are not TASK_inference and Speech2Text.
_REFERENCES = {
    "slu": ("slu_inference", "Speech2Understand"),
    "s2t_ctc": ("s2t_inference_ctc", "Speech2Text"),
    "enh_asr": ("asr_inference", "Speech2Text"),
    "diar": ("diar_inference", "DiarizeSpeech"),
    "enh_diar": ("diar_inference", "DiarizeSpeech"),
    "maskctc": ("asr_inference_maskctc", "Speech2Text"),
}

#: The model that a language model is decoded with.
_UNDER_AN_LM = {
    "task": "asr",
    "config": {
        "frontend_conf": {"fs": 8000, "n_fft": 64, "hop_length": 32, "n_mels": 20},
        "encoder": "transformer",
        "encoder_conf": {"output_size": 8, "attention_heads": 2, "num_blocks": 1},
        "decoder": "transformer",
        "decoder_conf": {"attention_heads": 2, "num_blocks": 1},
    },
}

#: Samples of the utterances at 8 kHz: below, at and above what blocks of 40 hold.
LENGTHS = (2000, 5300, 9100)

#: Tasks whose models make speech of text, or of songs.
SYNTHESIS = ("tts", "svs")

#: Tasks whose models say who speaks when.
DIARIZATION = ("diar", "enh_diar")

#: Scores that are nearer than this to each other are a tie.
TIE = 1e-3

#: Columns of the table: what :func:`~sweeping.build.why_not_built` says, and our own.
COLUMNS = {
    "all": "architectures (configs)",
    "builds": "build without weights",
    "package": "need a package",
    "weights": "need weights",
    "ESPnet": "ESPnet refuses",
    "covered": "covered",
}

_Config = dict[str, Any]


def options(architecture: _Config) -> _Config:
    """Decoding options like a recipe's."""
    if architecture["task"] == "tts":
        return dict(maxlenratio=2.5)
    if architecture["task"] in ("svs", *ENHANCEMENT):
        return {}
    if architecture["task"] in DIARIZATION:
        return dict(num_spk=2, enh_s2t_task=architecture["task"] == "enh_diar")
    beam = dict(beam_size=3, nbest=3)
    if architecture["task"] == "asr_transducer":  # bounded, as below
        return dict(beam, beam_search_config=dict(search_type="tsd"))
    if architecture["task"] == "s2t_ctc":
        return dict(beam, lang_sym="<eng>")
    conf = architecture["config"].get("model_conf", {})
    if architecture["config"].get("decoder") == "transducer":
        # The default search has no bound: a random model's labels may never end.
        multi_blank = "transducer_multi_blank_durations" in conf
        search = dict(search_type="mbg" if multi_blank else "tsd", nbest=3)
        return dict(beam_size=3, lm_weight=0.0, transducer_conf=search)
    if _model(architecture) == "maskctc":
        return {}
    if architecture["task"] == "st":  # by the target's CTC, if there is one
        ctc_weight = 0.3 if conf.get("st_mtlalpha") else 0.0
    else:
        ctc_weight = conf.get("ctc_weight", 0.3)
    lm_weight = 0.4 if architecture["task"] == "lm" else 0.0
    beam.update(ctc_weight=ctc_weight, lm_weight=lm_weight)
    if architecture["task"] == "enh_asr":
        beam.update(enh_s2t_task=True)
    if architecture["task"] == "s2t":
        # ESPnet's CTC scorer ends in an error where a hypothesis, of which the primer
        # is a part, gets longer than the encoder's output.
        beam.update(maxlenratio=-10)
    if _model(architecture) == "pit_espnet":
        beam.update(multi_asr=True)
    return beam


def utterances(architecture: _Config) -> list[np.ndarray]:
    """Noise bursts of different lengths, or features of as many frames.

    Those of a beamformer have three channels.
    """
    random = np.random.default_rng(0)
    dim = architecture["config"].get("input_size")
    channels = (3,) * (architecture["config"].get("enh_separator") == "wpe_beamformer")
    if dim in (None, 1):
        shapes = [(length, *channels) for length in LENGTHS]
    else:
        shapes = [(length // 32, dim) for length in LENGTHS]
    return [(0.2 * random.standard_normal(s)).astype(np.float32) for s in shapes]


def compare(architecture: _Config, directory: Path) -> list[str]:
    """Export an architecture with random weights, and decode with it and with ESPnet.

    The export of models that speak, sing or separate does the latter itself.

    Returns:
        What of the results is not ESPnet's.

    Raises:
        PluginError: if it is not supported, or a graph differs from PyTorch.
    """
    files = write_model(architecture, directory)
    task = "asr" if architecture["task"] == "lm" else architecture["task"]
    bundle = export_bundle(task, Checkpoints(*files), directory / "fp32")
    ours = open_model(bundle, **options(architecture))
    if task in SYNTHESIS:
        return mute(ours)
    if task in ENHANCEMENT:
        return silent(ours)
    theirs = open_reference(architecture, files)
    if task in DIARIZATION:
        return [m for s in utterances(architecture) for m in unlike(ours, theirs, s)]
    found, tokens = [], set()
    for speech in utterances(architecture):
        for result, expected in zip(
            hypotheses(ours(speech)), hypotheses(theirs(speech)), strict=True
        ):
            if not same_best(result, expected):
                found.append(f"{result[0]}, ESPnet: {expected}")
            tokens.update(tuple(token_int) for token_int, _ in expected)
    if len(tokens) < 2:
        found.append("every utterance gives the same tokens")
    return found


def mute(model: Synthesizer) -> list[str]:
    """Evidence that the check of the export said nothing about a model.

    That check speaks or sings as ESPnet does, with the same noise. It would find all
    well in a model that says nothing: no frames, always as many, or silence.
    """
    found, lengths = [], set()
    for what, given in model.data.made_up(model.bundle):
        made = model(**given)
        sound = made["wav"] if "wav" in made else made["feat_gen"]
        if not len(sound) > 1 or not np.ptp(sound) > 0:
            found.append(f"{what} becomes {len(sound)} frames, or silence")
        lengths.add(len(sound))
    if len(lengths) < 2:
        found.append("all become as long")
    return found


def silent(model: Separator) -> list[str]:
    """Evidence that the check of the export said nothing about a model.

    That check separates as ESPnet does. It would find all well in a model that gives
    silence, or back what it was given.
    """
    found = []
    for what, mixture in made_up(model.enhancement):
        mix = mixture.speech_mix
        if len(mix) < MIXTURES[0]:
            continue  # a frame or two of a random model can be nothing
        for wave in model(**mixture.arguments()):
            if not np.isfinite(wave).all() or not np.ptp(wave) > 0:
                found.append(f"{what} becomes silence")
            elif model.enhancement.channels == 1 and np.allclose(wave[0], mix):
                found.append(f"{what} stays as it is")
    return found


def unlike(ours: DiarizeSpeech, theirs: Any, speech: np.ndarray) -> list[str]:
    """Evidence that speakers are not ESPnet's, or that nothing is said of them."""
    (waves, activities), (expected, probabilities) = (
        model(speech[None].copy()) for model in (ours, theirs)
    )
    what, found = f"a recording of {len(speech)} samples", []
    if not np.ptp(activities) > 0:
        found.append(f"{what} has no activities")
    if difference(activities, probabilities) > TOLERANCE:
        found.append(f"{what} has other activities than in ESPnet")
    for wave, reference in zip(waves or [], expected or [], strict=True):
        if not np.ptp(wave) > 0:
            found.append(f"{what} becomes silence")
        elif difference(wave, reference) > WAVEFORM_TOLERANCE:
            found.append(f"{what} becomes another one than in ESPnet")
    return found


def write_model(architecture: _Config, directory: Path) -> list[Path]:
    """Configuration and checkpoint, and those of the language model if it is one."""
    parts = [architecture]
    if architecture["task"] == "lm":
        parts = [_UNDER_AN_LM, architecture]
    files = []
    for part in parts:
        model, config = build(part), training_config(part)
        if part["task"] in SYNTHESIS:
            lengthen(model)
        elif part["task"] not in (*ENHANCEMENT, *DIARIZATION):
            sharpen(getattr(model, "s2t_model", model), len(config["token_list"]))
        files += _save(model, config, directory / part["task"])
    return files


def _save(model, config: _Config, directory: Path) -> tuple[Path, Path]:
    import torch

    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    torch.save(model.state_dict(), directory / "model.pth")
    return directory / "config.yaml", directory / "model.pth"


def open_reference(architecture: _Config, files: list[Path]):
    """ESPnet's own inference."""
    task = "asr" if architecture["task"] == "lm" else architecture["task"]
    kind = "maskctc" if _model(architecture) == "maskctc" else task
    module, name = _REFERENCES.get(kind, (f"{task}_inference", "Speech2Text"))
    cls = getattr(importlib.import_module(f"espnet2.bin.{module}"), name)
    others = {"s2t_ctc": "s2t", "asr_transducer": "asr", "enh_asr": "asr"}
    prefix = others.get(task, task)
    prefix = "" if task in DIARIZATION else f"{prefix}_"
    names = [f"{prefix}{name}" for name in ("train_config", "model_file")]
    names += ["lm_train_config", "lm_file"]
    with losses_left_out():
        return cls(**dict(zip(names, map(str, files))), **options(architecture))


def hypotheses(results: Any) -> list[list[tuple[list[int], float]]]:
    """Token ids and scores, best first, of each speaker."""
    if isinstance(results, tuple):  # with what intermediate CTCs read
        results = results[0]
    if hasattr(results[0], "yseq"):  # of a stand-alone transducer
        return [[(list(r.yseq), float(r.score)) for r in results]]
    speakers = results if isinstance(results[0], list) else [results]
    return [[(list(r[2]), float(r[-1].score)) for r in one] for one in speakers]


def same_best(
    result: list[tuple[list[int], float]], expected: list[tuple[list[int], float]]
) -> bool:
    """Whether the best hypothesis is ESPnet's best, or one that ties with it."""
    [(tokens, score), *_], [(_, best), *_] = result, expected
    tied = {tuple(t): s for t, s in expected if abs(s - best) < TIE}
    return tuple(tokens) in tied and abs(score - tied[tuple(tokens)]) < TIE


def _model(architecture: _Config) -> str:
    return architecture["config"].get("model", "espnet")


def measure(architectures: list[_Config]) -> dict[str, str]:
    """Why architectures that ESPnet builds are not covered, by name."""
    failures = {}
    for architecture in architectures:
        if "excluded" in architecture:
            continue
        with tempfile.TemporaryDirectory() as directory:
            try:
                found = compare(architecture, Path(directory))
            except Exception as e:
                logging.debug(architecture["name"], exc_info=True)
                found = [f"{type(e).__name__}: {e}"]
        if found:
            failures[architecture["name"]] = found[0]
    return failures


def table(architectures: list[_Config], failures: Mapping[str, str]) -> str:
    """Coverage by task, in Markdown, and each that is not covered, with its reason.

    Cells are distinct architectures, and in brackets the configurations that they
    stand for.
    """
    counts: dict[tuple[str, str], list[int]] = {}
    for architecture in architectures:
        kind = architecture.get("excluded", "builds").partition(":")[0]
        columns = ["all", kind]
        if kind == "builds" and architecture["name"] not in failures:
            columns.append("covered")
        for task in (architecture["task"], "all"):
            for column in columns:
                cell = counts.setdefault((task, column), [0, 0])
                cell[0] += 1
                cell[1] += len(architecture["configs"])
    lines = [
        f"| task | {' | '.join(COLUMNS.values())} | share |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]
    for task in dict.fromkeys([a["task"] for a in architectures] + ["all"]):
        cells = [counts.get((task, column), [0, 0]) for column in COLUMNS]
        share = 100 * cells[-1][1] // cells[1][1]  # 100 is all
        shown = " | ".join(f"{cell[0]} ({cell[1]})" for cell in cells)
        lines.append(f"| {task} | {shown} | {share}% |")
    lines += [f"{name}: {reason}" for name, reason in failures.items()]
    return "\n".join(lines)
