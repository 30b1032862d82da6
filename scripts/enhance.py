#!/usr/bin/env python3
"""Clean or separate audio as it comes, with any bundle that enhances speech.

Usage: scripts/enhance.py --model_dir BUNDLE --output OUT FILE_OR_DIRECTORY...
       scripts/enhance.py --model_dir BUNDLE --output - - < NOISY.wav > CLEAN.raw
       ffmpeg -i NOISY -f s16le -ac 1 -ar 16000 - | \\
           scripts/enhance.py --model_dir BUNDLE --fs 16000 --output - - | \\
           aplay -f S16_LE -r 16000

A model that works through streams (a causal tcn or skim, or an rnn in one direction)
gives its output a frame behind its input; any other one a segment behind. Memory does
not grow with the length of a stream.

Of one file, OUT is a file, of several or of a directory a directory. A model of several
speakers writes a file for each, NAME_spk1.wav and so on. Standard input is a WAV file,
or 16-bit samples of one channel where --fs is given; standard output gets 16-bit
samples, those of the speakers side by side.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import wave
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from espnet_onnx_plugin.bin._common import run
from espnet_onnx_plugin.bin._parser import ArgumentParser
from espnet_onnx_plugin.bin.enh_inference import frequency
from espnet_onnx_plugin.bundle import Bundle, read_bundle
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.enhancement.enhancer import enhancement_of
from espnet_onnx_plugin.runtime.enhancement.stream import MixtureStream
from espnet_onnx_plugin.runtime.io.audio import READERS, find_audio
from espnet_onnx_plugin.tasks import open_model

logger = logging.getLogger(__name__)

#: Seconds of audio that are separated at a time, of a file and of a stream.
PIECE, LIVE_PIECE = 1.0, 0.02

#: Standard input and output.
STANDARD = "-"

#: Takes 16-bit samples (samples, speakers).
Write = Callable[[np.ndarray], None]


def get_parser() -> ArgumentParser:
    """The options."""
    parser = ArgumentParser(prog="enhance", description=__doc__.partition("\n")[0])
    parser.add_argument("inputs", nargs="+", help="files, directories, or -")
    parser.add_argument("--model_dir", required=True, help="the bundle")
    parser.add_argument("--output", required=True, help="file, directory, or -")
    parser.add_argument(
        "--fs", type=frequency, help="samples a second of standard input without header"
    )
    parser.add_argument("--num_threads", type=int, default=1, help="CPU threads")
    parser.add_argument(
        "--scale",
        type=float,
        default=1.0,
        help="factor of the outputs: their peak is not known before their end",
    )
    group = parser.add_argument_group("Models that take mixtures whole")
    group.add_argument("--segment_size", type=float, default=4.0, help="seconds")
    group.add_argument(
        "--hop_size", type=float, default=3.0, help="seconds from one to the next"
    )
    return parser


@dataclass
class Samples:
    """Waveforms on their way into 16 bits.

    Attributes:
        scale: that they have.
        peak: the largest so far.
    """

    scale: float
    peak: float = field(default=0.0, init=False)

    def __call__(self, waves: np.ndarray) -> np.ndarray:
        """Samples (samples, speakers) of waveforms (speakers, samples)."""
        self.peak = max(self.peak, float(np.abs(waves).max(initial=0)))
        values = np.clip(np.round(waves.T * 2**15), -(2**15), 2**15 - 1)
        return values.astype("<i2")

    def warn(self, name: str) -> None:
        """Tell of peaks that were cut off."""
        if self.peak > 1:
            logger.warning(
                "%s: peaks of %.2f were cut off at 1; give --scale %.3g",
                name,
                self.peak,
                0.9 * self.scale / self.peak,
            )


def open_stream(bundle: Bundle, args: argparse.Namespace, fs: int) -> MixtureStream:
    """A stream of the bundle's model, by frames where it can."""
    if enhancement_of(bundle.manifest).stream is not None:
        model = open_model(bundle, "enh_inference_streaming", threads=args.num_threads)
    else:
        segments = dict(segment_size=args.segment_size, hop_size=args.hop_size)
        model = open_model(bundle, threads=args.num_threads, **segments)
    return model.stream(fs, args.scale)


def from_stdin(fs: int | None) -> tuple[int, Iterator[np.ndarray]]:
    """Sampling rate of standard input, and pieces (samples, channels) of it."""
    file = sys.stdin.buffer
    if fs is not None:
        size = 2 * max(1, round(LIVE_PIECE * fs))
        return fs, (
            _floats(content, 1) for content in iter(lambda: file.read(size), b"")
        )
    try:
        header = wave.open(file)
    except (wave.Error, EOFError) as e:
        raise PluginError(
            f"standard input is no WAV file ({e or 'it is empty'}); give --fs, if it "
            "is samples without a header"
        )
    if header.getsampwidth() != 2:
        raise PluginError(
            f"standard input has samples of {8 * header.getsampwidth()} bits; make "
            "them 16"
        )
    rate, channels = header.getframerate(), header.getnchannels()
    count = max(1, round(LIVE_PIECE * rate))
    contents = iter(lambda: header.readframes(count), b"")
    return rate, (_floats(content, channels) for content in contents)


def _floats(content: bytes, channels: int) -> np.ndarray:
    whole = len(content) // (2 * channels) * 2 * channels
    samples = np.frombuffer(content[:whole], "<i2") / np.float32(2**15)
    return samples.reshape(-1, channels)


@contextlib.contextmanager
def to_files(paths: Sequence[Path], fs: int) -> Iterator[Write]:
    """Files of each speaker, which appear when they are whole."""
    import soundfile

    work = [path.with_name(f".{path.stem}.part{path.suffix}") for path in paths]
    with contextlib.ExitStack() as stack:
        for path in work:
            stack.callback(path.unlink, missing_ok=True)
        files = []
        for path, final in zip(work, paths):
            try:
                file = soundfile.SoundFile(path, "w", fs, 1, "PCM_16")
            except (soundfile.LibsndfileError, TypeError, ValueError) as e:
                raise PluginError(f"{final} cannot be written: {e}")
            files.append(stack.enter_context(file))

        def write(samples: np.ndarray) -> None:
            for file, wave in zip(files, samples.T):
                file.write(wave)

        yield write
        for file, path, final in zip(files, work, paths):
            file.close()
            os.replace(path, final)


def to_stdout(samples: np.ndarray) -> None:
    """Give samples to standard output at once."""
    sys.stdout.buffer.write(samples.tobytes())
    sys.stdout.buffer.flush()


def follow(
    stream: MixtureStream,
    name: str,
    pieces: Iterator[np.ndarray],
    scale: float,
    write: Write,
) -> None:
    """Separate pieces of audio as they come."""
    samples = Samples(scale)
    for piece in pieces:
        write(samples(stream.feed(piece)))
    write(samples(stream.finish()))
    samples.warn(name)
    logger.info(
        "%s: latency %.1f ms, real-time factor %.3f",
        name,
        1000 * stream.latency,
        stream.real_time_factor,
    )


def files_of(output: Path, speakers: int) -> list[Path]:
    """The output's file of each speaker."""
    if speakers == 1:
        return [output]
    return [
        output.with_name(f"{output.stem}_spk{i + 1}{output.suffix}")
        for i in range(speakers)
    ]


def targets(inputs: Sequence[str], output: str) -> list[tuple[Path, Path]]:
    """Each file that is read, and the one that is made of it.

    Raises:
        PluginError: if there is none, or two would be one.
    """
    chosen, out = find_audio(inputs), Path(output)
    if len(inputs) == 1 and not Path(inputs[0]).is_dir() and not out.is_dir():
        return [(chosen[0], out)]
    if out.exists() and not out.is_dir():
        raise PluginError(f"{out} is a file: of several inputs, name a directory")
    roots = [path for path in map(Path, inputs) if path.is_dir()]
    pairs = []
    for path in chosen:
        root = next((r for r in roots if r in path.parents), path.parent)
        pairs.append((path, (out / path.relative_to(root)).with_suffix(".wav")))
    seen: dict[Path, Path] = {}
    for path, made in pairs:
        if made in seen:
            raise PluginError(f"{seen[made]} and {path} would both become {made}")
        seen[made] = path
    return pairs


def enhance(args: argparse.Namespace) -> None:
    """Enhance every input."""
    bundle = read_bundle(args.model_dir)
    outputs = enhancement_of(bundle.manifest).outputs
    if STANDARD in args.inputs:
        if len(args.inputs) > 1:
            raise PluginError("standard input is one stream: name no other input")
        fs, pieces = from_stdin(args.fs)
        stream = open_stream(bundle, args, fs)
        if args.output == STANDARD:
            follow(stream, "standard input", pieces, args.scale, to_stdout)
            return
        with to_files(files_of(Path(args.output), outputs), fs) as write:
            follow(stream, "standard input", pieces, args.scale, write)
        return
    if args.fs is not None:
        raise PluginError("--fs is for standard input: files know their rate")
    if args.output == STANDARD:
        raise PluginError("only standard input goes to standard output")
    streams: dict[int, MixtureStream] = {}
    for path, out in targets(args.inputs, args.output):
        made = files_of(out, outputs)
        if path.resolve() in [file.resolve() for file in made]:
            raise PluginError(f"{path} would be overwritten; name another --output")
        audio = READERS["sound"](str(path))
        fs = audio.rate
        if fs not in streams:
            streams[fs] = open_stream(bundle, args, fs)
        streams[fs].reset()
        out.parent.mkdir(parents=True, exist_ok=True)
        size = max(1, round(PIECE * fs))
        pieces = (audio.array[i : i + size] for i in range(0, len(audio.array), size))
        with to_files(made, fs) as write:
            follow(streams[fs], str(path), pieces, args.scale, write)


def main(cmd: Sequence[str] | None = None) -> None:
    """Entry point."""
    run(get_parser(), enhance, cmd)


if __name__ == "__main__":
    main()
