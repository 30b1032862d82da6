"""Diarize with a bundle: ``espnet2.bin.diar_inference`` without torch and ESPnet."""

from __future__ import annotations

import argparse
import logging
import time
from typing import TYPE_CHECKING

from espnet_onnx_plugin.bin._inference import LOADING, Inference
from espnet_onnx_plugin.bin._parser import ArgumentParser, str2bool
from espnet_onnx_plugin.bin.enh_inference import frequency
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.diarization.options import DiarOptions

if TYPE_CHECKING:
    from espnet_onnx_plugin.runtime.diarization.writer import DiarizationWriter

#: What to do about a recording that needs too much memory.
REMEDY = "give --segment_size and --hop_size, or the job more memory"


class Diarizing(Inference):
    """The command that says who speaks when, and separates them."""

    def get_parser(self) -> ArgumentParser:
        """The options, with ESPnet's names and defaults."""
        parser = super().get_parser()
        parser.add_argument(
            "--fs",
            type=frequency,
            default=8000,
            help="sampling rate of the waveforms that are written, 16000 or 16k; "
            "segments are of 8000 samples a second whatever it is, as in ESPnet",
        )
        parser.add_argument(
            "--show_progressbar", type=str2bool, default=False, help=argparse.SUPPRESS
        )
        return parser

    @property
    def writer(self) -> type[DiarizationWriter]:
        """Class of what writes the results."""
        from espnet_onnx_plugin.runtime.diarization.writer import DiarizationWriter

        return DiarizationWriter

    def run(self, args: argparse.Namespace) -> None:
        """Diarize every recording and write the results."""
        self.check(args)
        if args.batch_size > 1 or args.batch_bins:
            logging.info("--batch_size has no effect: recordings are taken one by one")
        source, _ = self._inputs(args)

        from tqdm.contrib.logging import logging_redirect_tqdm

        from espnet_onnx_plugin.runtime.core.arithmetic import arithmetic
        from espnet_onnx_plugin.runtime.core.limits import memory_of
        from espnet_onnx_plugin.runtime.diarization.writer import DiarizationWriter
        from espnet_onnx_plugin.runtime.io.data import attempts
        from espnet_onnx_plugin.runtime.io.lists import read_keys
        from espnet_onnx_plugin.runtime.io.memory import peak_memory_mb
        from espnet_onnx_plugin.runtime.io.progress import progress
        from espnet_onnx_plugin.runtime.io.writer import job_writer

        keys = read_keys(args.key_file) if args.key_file else list(source.entries())
        model = self.open_model(args)
        speakers = (model.num_spk or model.most) if model.most else 0
        output = job_writer(DiarizationWriter, self.job(args, keys), speakers=speakers)
        with output as writer, logging_redirect_tqdm():
            left = [key for key in keys if not writer.kept(key)]
            writer.log_kept()
            manifest = model.bundle.manifest
            described = manifest.speech or manifest.enhancement
            read = attempts(source, left, described.dtype)
            for key, audio in progress(read, len(left), args.time_limit):
                logging.info("Diarizing %s", key)
                try:
                    if isinstance(audio, PluginError):
                        raise audio
                    start = time.perf_counter()
                    # ESPnet's command does not tell its class the rate.
                    with memory_of(model.device, REMEDY):
                        made = model.diarize(audio.array)
                    seconds = time.perf_counter() - start
                except PluginError as e:
                    writer.failure(key, e)
                    continue
                writer.activities(key, made.activities)
                if made.waves is not None:
                    writer.utterance(key, list(made.waves), args.fs)
                figures = dict(
                    audio_seconds=model.duration(audio.array, args.fs),
                    total_seconds=seconds,
                    peak_memory_mb=peak_memory_mb(),
                    arithmetic=arithmetic(manifest),
                )
                writer.record(key, figures)
        logging.info("diarized %d recordings into %s", len(keys), args.output_dir)


COMMAND = Diarizing(
    "diar_inference",
    DiarOptions,
    unsupported=("dtype",),
    without_effect=("seed", *LOADING),
)

main = COMMAND.main

if __name__ == "__main__":
    main()
