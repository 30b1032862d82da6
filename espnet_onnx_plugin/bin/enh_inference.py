"""Enhance with a bundle: ``espnet2.bin.enh_inference`` without torch and ESPnet."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from espnet_onnx_plugin.bin._inference import LOADING, Inference
from espnet_onnx_plugin.bin._parser import ArgumentParser, str2bool, str_or_none
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.enhancement.options import EnhOptions

if TYPE_CHECKING:
    import numpy as np

    from espnet_onnx_plugin.runtime.enhancement.inputs import Mixture, Mixtures
    from espnet_onnx_plugin.runtime.enhancement.writer import WaveWriter
    from espnet_onnx_plugin.runtime.synthesis.torch_rng import Noise


def frequency(value: str) -> int:
    """Samples a second, ``8000`` or ``8k``, as ESPnet's recipes write it."""
    number = value.lower().removesuffix("k")
    if not number.isdecimal() or not int(number):
        raise argparse.ArgumentTypeError(f"'{value}' is not a sampling rate")
    return int(number) * (1000 if value[-1] in "kK" else 1)


#: What to do about a recording that needs too much memory.
REMEDY = "give --segment_size and --hop_size, or the job more memory"


class Enhancing(Inference):
    """The command that makes waveforms of mixtures."""

    def get_parser(self) -> ArgumentParser:
        """The options, with ESPnet's names and defaults."""
        parser = super().get_parser()
        parser.add_argument(
            "--fs", type=frequency, default=8000, help="sampling rate, 16000 or 16k"
        )
        parser.add_argument(
            "--output_format", default="wav", help="format of the waveforms: wav, flac"
        )
        parser.add_argument(
            "--show_progressbar", type=str2bool, default=False, help=argparse.SUPPRESS
        )
        parser.add_argument(
            "--inference_config",
            type=str_or_none,
            help="has to be given to the export, as --inference_enh_config",
        )
        return parser

    def check(self, args: argparse.Namespace) -> None:
        """Refuse what is not supported."""
        super().check(args)
        if args.inference_config is not None:
            raise PluginError(
                f"--inference_config {args.inference_config} changes the model: give "
                "it to bin.export as --inference_enh_config"
            )
        if args.batch_size > 1 or args.batch_bins:
            logging.info("--batch_size has no effect: mixtures are enhanced one by one")

    def mixtures(self, args: argparse.Namespace) -> Mixtures:
        """The mixtures that the options name."""
        from espnet_onnx_plugin.runtime.enhancement.inputs import Mixtures

        return Mixtures(args.data_path_and_name_and_type)

    def begin(self, model: Any) -> None:
        """Draw on as ESPnet's command does."""
        model.begin_job()

    def enhance(
        self, model: Any, mixture: Mixture, fs: int
    ) -> tuple[Sequence[np.ndarray], dict[str, float]]:
        """Enhance one mixture.

        Returns:
            The waveform (samples,) of each speaker, and figures for ``timing.jsonl``
            besides the time that it took.
        """
        return [wave[0] for wave in model(fs=fs, **mixture.arguments())], {}

    @property
    def writer(self) -> type[WaveWriter]:
        """Class of what writes the results."""
        from espnet_onnx_plugin.runtime.enhancement.writer import WaveWriter

        return WaveWriter

    def run(self, args: argparse.Namespace) -> None:
        """Enhance every mixture and write the results."""
        self.check(args)

        from tqdm.contrib.logging import logging_redirect_tqdm

        from espnet_onnx_plugin.runtime.core.arithmetic import arithmetic
        from espnet_onnx_plugin.runtime.core.limits import memory_of
        from espnet_onnx_plugin.runtime.enhancement.writer import WaveWriter
        from espnet_onnx_plugin.runtime.io.lists import read_keys
        from espnet_onnx_plugin.runtime.io.memory import peak_memory_mb
        from espnet_onnx_plugin.runtime.io.progress import progress
        from espnet_onnx_plugin.runtime.io.records import decoded, encoded
        from espnet_onnx_plugin.runtime.io.writer import job_writer

        mixtures = self.mixtures(args)
        keys = read_keys(args.key_file) if args.key_file else mixtures.keys
        mixtures.check(keys)
        model = self.open_model(args)
        mixtures.require(model.enhancement)
        self.begin(model)
        job = self.job(args, keys)
        output = job_writer(WaveWriter, job, audio_format=args.output_format)
        with output as writer, logging_redirect_tqdm():
            waiting = progress(keys, len(keys), args.time_limit)
            for number, key in enumerate(waiting):
                noise: Noise | None = model.noise
                if writer.kept(key, noise):
                    continue
                before = None if noise is None else encoded(noise)
                logging.info("[%d] Enhancing %s", number, key)
                try:
                    with memory_of(model.device, REMEDY):
                        mixture = mixtures.of(key, model.enhancement)
                        fs = mixture.fs or args.fs
                        start = time.perf_counter()
                        waves, figures = self.enhance(model, mixture, fs)
                        seconds = time.perf_counter() - start
                except PluginError as e:
                    if noise is not None and before is not None:
                        noise.restore(decoded(before))  # the others have theirs
                    writer.failure(key, e)
                    continue
                writer.utterance(key, waves, fs)
                more = dict(
                    audio_seconds=len(mixture.speech_mix) / fs,
                    total_seconds=seconds,
                    **figures,
                    peak_memory_mb=peak_memory_mb(),
                    arithmetic=arithmetic(model.bundle.manifest),
                )
                writer.record(key, more, before, noise)
            writer.log_kept()
        logging.info("enhanced %d utterances into %s", len(keys), args.output_dir)


COMMAND = Enhancing(
    "enh_inference",
    EnhOptions,
    unsupported=("dtype",),
    without_effect=LOADING,
)

main = COMMAND.main

if __name__ == "__main__":
    main()
