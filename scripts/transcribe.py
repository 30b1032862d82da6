#!/usr/bin/env python3
"""Transcribe audio as it comes, with any bundle that recognizes speech.

Usage: scripts/transcribe.py --model_dir BUNDLE FILE_OR_DIRECTORY...
       scripts/transcribe.py --model_dir BUNDLE --microphone true
       ffmpeg -i AUDIO -f s16le -ac 1 -ar RATE - | \\
           scripts/transcribe.py --model_dir BUNDLE -

A model with an encoder for streams (contextual_block_transformer or
contextual_block_conformer, or that of a stand-alone transducer) says what it hears
while it is said: on a terminal in a line that is written anew until the utterance is
over, elsewhere in a line of JSON for each change. With other models, files are decoded
whole.
"""

from __future__ import annotations

import argparse
import json
import queue
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from espnet_onnx_plugin.bin._common import run
from espnet_onnx_plugin.bin._parser import (
    ArgumentParser,
    add_options,
    settings,
    str2bool,
    values_of,
)
from espnet_onnx_plugin.bundle import Bundle, ChunkStream, Speech, read_bundle
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.packages import import_package
from espnet_onnx_plugin.runtime.io.audio import READERS, find_audio
from espnet_onnx_plugin.runtime.io.speech import check_rate
from espnet_onnx_plugin.runtime.recognition.endpoint import Endpointing
from espnet_onnx_plugin.runtime.recognition.heard import Partial, Utterance
from espnet_onnx_plugin.runtime.recognition.stream import Stream
from espnet_onnx_plugin.tasks import open_model, task_of

#: Seconds of audio that are recognized at a time.
PIECE = 0.1


def get_parser() -> ArgumentParser:
    """The options."""
    parser = ArgumentParser(prog="transcribe", description=__doc__.partition("\n")[0])
    parser.set_defaults(log_level="WARNING")
    parser.add_argument("inputs", nargs="*", help="files, directories, or -")
    parser.add_argument("--model_dir", required=True, help="the bundle")
    parser.add_argument("--microphone", type=str2bool, default=False)
    parser.add_argument("--num_threads", type=int, default=1, help="CPU threads")
    parser.add_argument(
        "--options",
        type=settings,
        default={},
        help="decoding options, as the task's inference takes them: NAME=VALUE,...",
    )
    add_options(parser.add_argument_group("Ends of utterances"), Endpointing)
    return parser


class Display:
    """Shows what was heard: on a terminal as text, elsewhere as lines of JSON."""

    def __init__(self, out: TextIO):
        self._out = out
        self._terminal = out.isatty()
        self._shown = ""

    def partial(self, name: str, partial: Partial, seconds: float) -> None:
        """Show an utterance that goes on, if it has changed."""
        text = _text(partial)
        if text == self._shown:
            return
        self._shown = text
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            self._out.write(f"\r{text[-width:]}\x1b[K")
            self._out.flush()
            return
        stable = [word.text for word in partial.words[: partial.stable_words]]
        self._line(input=name, seconds=seconds, partial=text, stable=" ".join(stable))

    def utterance(self, name: str, utterance: Utterance) -> None:
        """Show an utterance that is over."""
        self._shown = ""
        best = utterance.results[0] if utterance.results else None
        text = "" if best is None else _text(best)
        if self._terminal:
            self._out.write(f"\r\x1b[K{text}\n" if text else "\r\x1b[K")
            self._out.flush()
            return
        self._line(
            input=name,
            start=utterance.start,
            end=utterance.end,
            text=text,
            words=[
                [w.text, round(w.start, 3), round(w.end, 3)] for w in utterance.words
            ],
            reason=utterance.reason,
            latency=utterance.latency._asdict(),
        )

    def whole(self, name: str, text: str) -> None:
        """Show what was heard in a whole file."""
        if self._terminal:
            self._out.write(f"{text}\n")
        else:
            self._line(input=name, text=text)

    def _line(self, **content: Any) -> None:
        print(json.dumps(content, ensure_ascii=False), file=self._out, flush=True)


def _text(result: Any) -> str:
    """Text of a result, or its tokens where the model has no tokenizer."""
    return " ".join(result.token) if result.text is None else result.text


def from_file(path: Path, speech: Speech) -> np.ndarray:
    """Samples of a file, at the model's rate."""
    audio = READERS["sound"](str(path))
    check_rate(str(path), audio, speech)
    return audio.array


def from_stdin(rate: int) -> Iterator[np.ndarray]:
    """Pieces of what standard input gives: 16-bit samples without a header."""
    size = 2 * round(PIECE * rate)
    while content := sys.stdin.buffer.read(size):
        yield np.frombuffer(content[: len(content) // 2 * 2], "<i2") / np.float32(2**15)


def from_microphone(rate: int) -> Iterator[np.ndarray]:
    """Pieces of what the microphone hears, until it is interrupted."""
    sounddevice = import_package("sounddevice", "the microphone", "sounddevice")
    pieces: queue.Queue[np.ndarray] = queue.Queue()
    try:
        with sounddevice.InputStream(
            rate,
            blocksize=round(PIECE * rate),
            channels=1,
            dtype="float32",
            callback=lambda heard, *_: pieces.put(heard[:, 0].copy()),
        ):
            while True:
                yield pieces.get()
    except KeyboardInterrupt:
        return
    except sounddevice.PortAudioError as e:
        raise PluginError(f"the microphone cannot be read at {rate} Hz: {e}")


def transcribe(args: argparse.Namespace) -> None:
    """Transcribe every input."""
    if bool(args.inputs) == args.microphone:
        raise PluginError("name files, directories or -, or give --microphone true")
    bundle, display = read_bundle(args.model_dir), Display(sys.stdout)
    options = dict(threads=args.num_threads, **args.options)
    live = args.microphone or args.inputs == ["-"]
    if bundle.manifest.stream is None:
        if live:
            raise PluginError(
                f"{bundle.path} cannot recognize a stream: give it files, or a model "
                "with an encoder contextual_block_transformer or _conformer"
            )
        whole_files(bundle, args.inputs, options, display)
        return
    if isinstance(bundle.manifest.stream, ChunkStream):
        model = open_model(bundle, **{**options, "streaming": True})
    else:
        model = open_model(bundle, streaming_command(bundle), **options)
    stream = model.open(Endpointing(**values_of(args, Endpointing)))
    rate = model.speech.sampling_rate
    if live:
        source = from_microphone(rate) if args.microphone else from_stdin(rate)
        follow(stream, "microphone" if args.microphone else "-", source, display)
        return
    for path in find_audio(args.inputs):
        samples, size = from_file(path, model.speech), round(PIECE * rate)
        pieces = (samples[i : i + size] for i in range(0, len(samples), size))
        follow(stream, str(path), pieces, display)
        stream.reset()


def streaming_command(bundle: Bundle) -> str:
    """The command that decodes streams of a bundle's task.

    Raises:
        PluginError: if there is none.
    """
    task = task_of(bundle)
    for door in task.others:
        if door.command.endswith("_streaming"):
            return door.command
    raise PluginError(f"models of task {task.name} do not recognize streams")


def whole_files(
    bundle: Bundle, inputs: Sequence[str], options: dict[str, Any], display: Display
) -> None:
    """Decode files by a model that needs them whole."""
    model = open_model(bundle, **options)
    if bundle.manifest.speech is None or bundle.manifest.speakers is not None:
        raise PluginError(f"{bundle.path} does not recognize the speech of one speaker")
    for path in find_audio(inputs):
        results = model(from_file(path, bundle.manifest.speech))
        results = results[0] if isinstance(results, tuple) else results
        text = results[0][0] if results else ""
        display.whole(str(path), text or "")


def follow(
    stream: Stream, name: str, pieces: Iterator[np.ndarray], display: Display
) -> None:
    """Recognize pieces of audio as they come."""
    for piece in pieces:
        for utterance in stream.feed(piece):
            display.utterance(name, utterance)
        display.partial(name, stream.partial, stream.seconds)
    utterance = stream.final()
    if utterance.results or utterance.end > utterance.start:
        display.utterance(name, utterance)


def main(cmd: Sequence[str] | None = None) -> None:
    """Entry point."""
    run(get_parser(), transcribe, cmd)


if __name__ == "__main__":
    main()
