"""Base of the commands that speak and sing."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from espnet_onnx_plugin.bin._inference import Inference
from espnet_onnx_plugin.bin._parser import ArgumentParser, str2bool
from espnet_onnx_plugin.errors import PluginError

if TYPE_CHECKING:
    import numpy as np

    from espnet_onnx_plugin.runtime.io.speech_writer import SpeechWriter
    from espnet_onnx_plugin.runtime.synthesis.engine import Synthesizer

#: What to do about a text that needs too much memory.
REMEDY = "divide the text, or give the job more memory"


@dataclass(frozen=True)
class Synthesis(Inference):
    """A command that makes speech or singing, where the others read speech.

    Attributes:
        lists_waves: whether ESPnet writes ``wav/wav.scp``.
    """

    lists_waves: bool = False

    def get_parser(self) -> ArgumentParser:
        """The options, and one that ESPnet does not have."""
        parser = super().get_parser()
        parser.add_argument(
            "--time_first_audio",
            type=str2bool,
            default=False,
            help="begin every utterance once more, to time the first piece of a stream",
        )
        return parser

    @property
    def writer(self) -> type[SpeechWriter]:
        """Class of what writes the results."""
        from espnet_onnx_plugin.runtime.io.speech_writer import SpeechWriter

        return SpeechWriter

    def run(self, args: argparse.Namespace) -> None:
        """Synthesize every text and write the results."""
        self.check(args)

        from tqdm.contrib.logging import logging_redirect_tqdm

        from espnet_onnx_plugin.runtime.core.limits import memory_of
        from espnet_onnx_plugin.runtime.io.lists import read_keys
        from espnet_onnx_plugin.runtime.io.progress import progress
        from espnet_onnx_plugin.runtime.io.records import decoded, encoded
        from espnet_onnx_plugin.runtime.io.speech_writer import SpeechWriter
        from espnet_onnx_plugin.runtime.io.writer import job_writer

        model = self.open_model(args)
        texts = model.data(args.data_path_and_name_and_type).read(model.use_speech)
        keys: list[str] = read_keys(args.key_file) if args.key_file else texts.keys
        model.require_packages(texts.kinds)
        if args.batch_size > 1 or args.batch_bins:
            logging.info("--batch_size has no effect: texts are synthesized one by one")
        model.begin_job()
        output = job_writer(
            SpeechWriter, self.job(args, keys), lists_waves=self.lists_waves
        )
        with output as writer, logging_redirect_tqdm():
            for key in progress(keys, len(keys), args.time_limit):
                if writer.kept(key, model.noise):
                    continue
                before = encoded(model.noise)
                try:
                    with memory_of(model.device, REMEDY):
                        made, seconds = synthesize(model, texts.of(key), args)
                except (PluginError, RuntimeError) as e:
                    model.noise.restore(decoded(before))  # the others have theirs
                    writer.failure(key, e)
                else:
                    write(writer, key, model, made, seconds, before)
            writer.log_kept()
        logging.info("synthesized %d utterances into %s", len(keys), args.output_dir)


def synthesize(
    model: Synthesizer, inputs: dict[str, Any], args: argparse.Namespace
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Synthesize one utterance.

    Returns:
        ESPnet's outputs by name, and how long they took, as ``timing.jsonl`` has it.
    """
    # ESPnet's preprocessor is not part of its inference either.
    inputs = model.prepare(inputs)
    start = time.perf_counter()
    made = {name: v for name, v in model(**inputs).items() if v is not None}
    total = time.perf_counter() - start
    seconds = {f"{part}_seconds": took for part, took in model.seconds.items()}
    if args.time_first_audio and model.vocoder is not None:
        seconds["first_audio_seconds"] = model.first_audio_seconds(**inputs)
    return made, {**seconds, "total_seconds": total}


def write(
    writer: SpeechWriter,
    key: str,
    model: Synthesizer,
    made: Mapping[str, np.ndarray],
    seconds: Mapping[str, float],
    before: str,
) -> None:
    """Write the results of one utterance, see :func:`synthesize`.

    Args:
        writer: of the job.
        key: id of the utterance.
        model: what made them.
        made, seconds: as returned.
        before: state of the model's noise before.
    """
    from espnet_onnx_plugin.runtime.core.arithmetic import arithmetic
    from espnet_onnx_plugin.runtime.io.memory import peak_memory_mb

    size = len(made["feat_gen" if "feat_gen" in made else "wav"])
    logging.info("%s (size:%d->%d)", key, model.symbols, size)
    logging.info("inference speed = %.1f / sec.", size / seconds["total_seconds"])
    writer.utterance(key, made, model.fs)
    figures = dict(
        audio_seconds=model.audio_seconds(made),
        **seconds,
        peak_memory_mb=peak_memory_mb(),
        arithmetic=arithmetic(model.bundle.manifest),
    )
    writer.record(key, figures, before, model.noise)
