"""From a configuration to what the systems read: checkpoints, bundles, inputs."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from benchmarking.config import (
    FRAMES_PER_TOKEN,
    RandomModel,
    TestData,
    TrainedModel,
    separates,
    sings,
    synthesizes,
)
from benchmarking.settings import SeparationSetting

from espnet_onnx_plugin import runtime
from espnet_onnx_plugin.bundle import Bundle, Speech, read_bundle
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.evaluator import evaluator_class
from espnet_onnx_plugin.evaluate.sample import choose_keys, read_lengths
from espnet_onnx_plugin.files import write_whole
from espnet_onnx_plugin.runtime.io.data import Source, iterate
from espnet_onnx_plugin.runtime.io.lists import read_scp
from espnet_onnx_plugin.runtime.io.speech import check_rate, prepare
from espnet_onnx_plugin.runtime.synthesis.songs import made_up_song
from espnet_onnx_plugin.runtime.text.converter import TokenConverter
from espnet_onnx_plugin.tasks import find

SCRIPTS = Path(__file__).parents[1]

#: Noise for a model of random weights: as much as ranges need.
CALIBRATION_UTTERANCES = 3

# Of text to speech, where they lie and how many tokens they have.
CALIBRATION_TEXTS = "calibration_texts"
CALIBRATION_TOKENS = (20, 40, 80)
CALIBRATION_SAMPLES = 32000

#: Of songs: seconds, and where they lie, with types.
CALIBRATION_SONGS = (2.0, 4.0, 6.0)
SONG_FILES = {"text": "text", "label": "duration", "score": "score"}
#: Of their notes, in seconds.
NOTE = (0.2, 0.6)

#: A model of random weights recognizes and says nothing: there is no quality to hold.
NO_BUDGET = ("--max_wer_increase", "100", "--min_token_agreement", "0")
NO_SONG_BUDGET = ("--max_mcd", "1e9", "--max_log_f0_rmse", "1e9")
NO_SPEECH_BUDGET = (
    *NO_SONG_BUDGET,
    "--inference_args=--minlenratio 3",  # or they end at once
)
NO_SEPARATION_BUDGET = ("--min_agreement", "0")


@dataclass(frozen=True)
class Inputs:
    """Inputs that a setting decodes or synthesizes.

    Attributes:
        files: A numpy file for each utterance, of audio or of token ids.
        seconds: Length of all, None of text.
        references: Transcripts, None for noise and text.
    """

    files: Sequence[Path]
    seconds: float | None = None
    references: Sequence[str] | None = None


def environment(threads: int) -> dict[str, str]:
    """Return the environment of a process of the benchmark."""
    paths = [str(SCRIPTS), str(SCRIPTS.parent), os.environ.get("PYTHONPATH", "")]
    if find_spec("parallel_wavegan") is None:  # by which ESPnet loads vocoders
        paths.append(str(Path(__file__).with_name("stand_in")))
    # Not only the libraries that are asked for threads have some: numpy's BLAS, too.
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        **dict.fromkeys(names, str(threads)),
        # As the stages do, for PyTorch's runs too.
        "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"),
    }


def measured_code() -> list[Path]:
    """Return the sources on which the figures depend: decoder and benchmark."""
    return [
        *Path(runtime.__file__).parent.rglob("*.py"),
        *Path(__file__).parent.glob("*.py"),
    ]


def last_line(log: Path) -> str:
    """Return the last line of a log, where a program says why it ended."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next(
        (line.strip() for line in reversed(lines) if line.strip()), "no message"
    )


def dropouts_are_of_mkl() -> bool:
    """Return how this machine's torch draws dropouts, see the runtime's Noise."""
    module = "espnet_onnx_plugin.export.layers.draws"
    code = f"from {module} import dropouts_are_of_mkl; print(dropouts_are_of_mkl())"
    answer = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=True,
        encoding="utf-8",
        env=environment(1),
    )
    return answer.stdout.split()[-1] == "True"


#: Runs a module with a log and with arguments.
Run = Callable[..., None]


def run_module(log: Path, module: str, *args: object) -> None:
    """Run a module in a process, and show its log's last line where it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", module, *map(str, args)]
    with open(log, "wb") as file:
        code = subprocess.run(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment(os.cpu_count() or 1),
        ).returncode
    if code:
        raise PluginError(f"{last_line(log)} (log: {log})")


def make_random_model(
    model: RandomModel, directory: Path, log: Path, run: Run = run_module
) -> TrainedModel:
    """Write a model of random weights, unless it is there."""
    spec = json.dumps(dataclasses.asdict(model), sort_keys=True)
    synthesis = synthesizes(model.task)
    calibration, *others = _calibration(model.task, directory)
    files = TrainedModel(
        directory / "model.yaml",
        directory / "model.pth",
        task=model.task,
        calibration_scp=calibration,
        calibration_others=tuple(others),
        quantize_options=_no_budget(model.task),
    )
    if model.vocoder_config is not None:
        vocoder = directory / "vocoder.pkl"
        files = dataclasses.replace(files, vocoder_file=vocoder)
    if model.has_lm:
        lm = {"lm_train_config": directory / "lm.yaml", "lm_file": directory / "lm.pth"}
        files = dataclasses.replace(files, **lm)
    done = directory / "spec.json"
    if not done.is_file() or done.read_text(encoding="utf-8") != spec:
        directory.mkdir(parents=True, exist_ok=True)
        done.unlink(missing_ok=True)
        run(log, "benchmarking.random_model", spec, directory)
        if sings(model.task):
            _make_calibration_songs(directory, model.tokens)
        elif synthesis:
            _make_calibration_texts(directory, model.tokens)
        else:
            _make_calibration_noise(directory, model.channels)
        write_whole(done, spec)
    return files


def _calibration(task: str, directory: Path) -> tuple[str, ...]:
    """Return what :func:`make_random_model` has written, as bin.optimize takes it."""
    if sings(task):
        return tuple(
            f"{directory / f'songs_{name}'},{name},{kind}"
            for name, kind in SONG_FILES.items()
        )
    if synthesizes(task):
        return (f"{directory / CALIBRATION_TEXTS},text,text_int",)
    name = "speech_mix," if separates(task) else ""
    return (f"{directory / 'noise.scp'},{name}npy",)


def _no_budget(task: str) -> tuple[str, ...]:
    if separates(task):
        return NO_SEPARATION_BUDGET
    if sings(task):
        return NO_SONG_BUDGET
    return NO_SPEECH_BUDGET if synthesizes(task) else NO_BUDGET


def _make_calibration_noise(directory: Path, channels: int) -> None:
    """Write other noise than that which is decoded, for the ranges of convolutions."""
    shape = (CALIBRATION_SAMPLES, *[channels] * (channels > 1))
    random = np.random.default_rng(1)
    with open(directory / "noise.scp", "w", encoding="utf-8") as scp:
        for number in range(CALIBRATION_UTTERANCES):
            path = directory / f"noise_{number}.npy"
            noise = 0.1 * random.standard_normal(shape)
            np.save(path, noise.astype(np.float32))
            scp.write(f"noise_{number} {path}\n")


def _make_calibration_texts(directory: Path, vocabulary: int) -> None:
    """Write token ids of other texts than those that are spoken, likewise."""
    random = np.random.default_rng(1)
    text = ""
    for number, length in enumerate(CALIBRATION_TOKENS):
        ids = random.integers(2, vocabulary - 1, length)
        text += f"text_{number} {' '.join(map(str, ids))}\n"
    write_whole(directory / CALIBRATION_TEXTS, text)


def _make_calibration_songs(directory: Path, vocabulary: int) -> None:
    """Write other songs than those that are sung, as a recipe has them."""
    lines: dict[str, list[str]] = {name: [] for name in SONG_FILES}
    for number, seconds in enumerate(CALIBRATION_SONGS, 1):
        made = _song(seconds, vocabulary, number)
        tempo, notes = made["score"]
        times, phones = made["label"]
        score = directory / f"song_{number}.json"
        content = json.dumps({"tempo": tempo, "note": notes})
        write_whole(score, content)
        label = [f"{s:.4f} {e:.4f} {p}" for (s, e), p in zip(times, phones)]
        lines["text"].append(f"song_{number} {made['text']}")
        lines["label"].append(f"song_{number} {' '.join(label)}")
        lines["score"].append(f"song_{number} {score}")
    for name, content in lines.items():
        write_whole(directory / f"songs_{name}", "\n".join(content) + "\n")


def _song(seconds: float, vocabulary: int, seed: int) -> dict[str, Any]:
    """Return a song of about so many seconds, as ESPnet's class takes it, as JSON."""
    random = np.random.default_rng(seed)
    lengths = random.uniform(*NOTE, max(round(seconds / np.mean(NOTE)), 1))
    # Words of random models: without <blank>, <unk> and <sos/eos>.
    phones = [f"t{number}" for number in range(vocabulary - 3)]
    made = made_up_song(phones, lengths * seconds / lengths.sum(), 73, random)
    times, names = made["label"]
    label = (times.tolist(), list(names))
    return {"score": made["score"], "label": label, "text": " ".join(names)}


def make_bundles(
    model: TrainedModel,
    variants: Collection[str],
    directory: Path,
    logs: Path,
    provider: str = "cpu",
    run: Run = run_module,
) -> dict[str, Bundle]:
    """Make the bundles of some variants, and fp32; those up to date are kept.

    Args:
        model: The checkpoints.
        variants: Names of variants.
        directory: Of the bundles.
        logs: Directory of the logs.
        provider: Where the optimized bundle will run.
        run: Runs the commands that make the bundles.
    """
    commands = "espnet_onnx_plugin.bin."
    files = [argument for k, v in model.files.items() for argument in (f"--{k}", v)]
    files += ["--task", model.task]
    fp32 = directory / "fp32"
    run(logs / "export.log", f"{commands}export", *files, "--output_dir", fp32)
    option = evaluator_class(find(model.task)).option
    data = [model.calibration_scp] if model.calibration_scp is not None else []
    data += model.calibration_others
    calibration = [argument for scp in data for argument in (option, scp)]
    # As stage 15: both from the exported graphs.
    made_by = {
        "optimized": ("optimize", ["--provider", provider]),
        "int8": ("quantize", model.quantize_options),
        "fp16": ("quantize", ["--precision", "fp16", *model.quantize_options]),
    }
    bundles = {"fp32": read_bundle(fp32)}
    for variant, (name, more) in made_by.items():
        if variant in variants:
            output = directory / variant
            options = ["--model_dir", fp32, "--output_dir", output, *calibration]
            run(logs / f"{variant}.log", f"{commands}{name}", *options, *more)
            bundles[variant] = read_bundle(output)
    return bundles


def make_noise(
    seconds: float, speech: Speech, directory: Path, streams: int = 1
) -> Inputs:
    """Write noise of a length, that of several streams as rows of one array."""
    length = round(seconds * speech.sampling_rate)
    if length < speech.min_length:
        raise PluginError(f"audio_seconds {seconds:g}: too short for the encoder")
    shape = (length, speech.feature_dim) if speech.feature_dim else (length,)
    name = f"noise_{length}.npy"
    if streams > 1:
        shape, name = (streams, *shape), f"noise_{streams}_{length}.npy"
    noise = 0.1 * np.random.default_rng(0).standard_normal(shape)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    np.save(path, noise.astype(np.float32))
    return Inputs([path], streams * speech.seconds(length))


def make_mixture(setting: SeparationSetting, directory: Path) -> Inputs:
    """Write noise of a length, whose channels are alike."""
    length = round(setting.audio_seconds * setting.fs)
    random = np.random.default_rng(0)
    noise = 0.1 * random.standard_normal((length, setting.channels))
    noise += 0.1 * random.standard_normal((length, 1))
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"mixture_{setting.channels}_{length}.npy"
    np.save(path, noise.astype(np.float32).squeeze())
    return Inputs([path], setting.audio_seconds)


def choose_data(data: TestData, speech: Speech, directory: Path) -> Inputs:
    """Write some utterances of the test data: spread over it, with the longest."""
    source = Source(data.dir / "wav.scp", data.type)
    texts = read_scp(data.dir / "text")
    lengths = {
        key: length
        for key, length in read_lengths(source).items()
        if length >= speech.min_length and texts.get(key)
    }
    if not lengths:
        raise PluginError(f"{data.dir}: no utterance with a transcript can be decoded")
    directory.mkdir(parents=True, exist_ok=True)
    files, seconds = [], 0.0
    keys = choose_keys(lengths, data.utterances)
    for number, (key, audio) in enumerate(iterate(source, keys)):
        check_rate(key, audio, speech)
        array = prepare(audio.array, speech)
        files.append(directory / f"data_{number}.npy")
        np.save(files[-1], array)
        seconds += speech.seconds(len(array))
    return Inputs(files, seconds, [texts[key] for key in keys])


def make_text(seconds: float, bundle: Bundle, directory: Path) -> Inputs:
    """Write token ids that take about so long to say."""
    fs, shift = (
        bundle.manifest.synthesis.sampling_rate,
        bundle.manifest.synthesis.frame_shift,
    )
    length = max(round(seconds * fs / shift / FRAMES_PER_TOKEN), 1)
    vocabulary = len(TokenConverter(bundle).token_list)
    # Without <blank>, <unk> and <sos/eos>.
    ids = np.random.default_rng(0).integers(2, vocabulary - 1, length)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"text_{length}.npy"
    np.save(path, ids)
    return Inputs([path])


def make_song(seconds: float, bundle: Bundle, directory: Path) -> Inputs:
    """Write a song that takes so long, for a model of :func:`make_random_model`."""
    song = _song(seconds, len(TokenConverter(bundle).token_list), seed=0)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"song_{seconds:g}.json"
    write_whole(path, json.dumps(song))
    return Inputs([path])


def choose_text(data: TestData, bundle: Bundle, directory: Path) -> Inputs:
    """Write some texts of the test data: spread over it, with the longest."""
    texts = {key: text for key, text in read_scp(data.dir / "text").items() if text}
    converter, files = TokenConverter(bundle), []
    lengths = {key: len(text) for key, text in texts.items()}
    directory.mkdir(parents=True, exist_ok=True)
    for number, key in enumerate(choose_keys(lengths, data.utterances)):
        files.append(directory / f"text_of_{number}.npy")
        np.save(files[-1], converter.text2ids(texts[key]))
    return Inputs(files)
