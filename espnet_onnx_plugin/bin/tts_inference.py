"""Synthesize with a bundle: ``espnet2.bin.tts_inference`` without torch and ESPnet."""

from __future__ import annotations

import argparse
import copy
import logging
import time

from espnet_onnx_plugin.bin._inference import LOADING, Inference
from espnet_onnx_plugin.bin._parser import ArgumentParser, str2bool
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.synthesis.options import TtsOptions


class Synthesis(Inference):
    """The command that makes speech, where the others read it."""

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

    def run(self, args: argparse.Namespace) -> None:
        """Synthesize every text and write the results."""
        self.check(args)

        from tqdm.contrib.logging import logging_redirect_tqdm

        from espnet_onnx_plugin.runtime.core.arithmetic import arithmetic
        from espnet_onnx_plugin.runtime.io.lists import read_keys
        from espnet_onnx_plugin.runtime.io.memory import peak_memory_mb
        from espnet_onnx_plugin.runtime.io.progress import progress
        from espnet_onnx_plugin.runtime.io.speech_writer import FAILED, speech_writer
        from espnet_onnx_plugin.runtime.io.writer import IncompleteError
        from espnet_onnx_plugin.runtime.synthesis.inputs import Texts

        model = self.open_model(args)
        texts = Texts(args.data_path_and_name_and_type).read(model.use_speech)
        keys: list[str] = read_keys(args.key_file) if args.key_file else texts.keys
        if texts.kinds["text"] == "text":
            # A package that is missing here is the fault of no text.
            model.converter.text2ids("")
        if args.batch_size > 1:
            logging.info("--batch_size has no effect: texts are spoken one by one")
        failures: list[str] = []
        model.begin_job()
        with speech_writer(args.output_dir, keys) as writer, logging_redirect_tqdm():
            for key in progress(keys, len(keys)):
                noise = copy.deepcopy(model.noise)
                start = time.perf_counter()
                try:
                    given = texts.of(key)
                    if not args.use_teacher_forcing:  # ESPnet gives its model none then
                        given.pop("durations", None)
                    # ESPnet's front end is not part of its inference either.
                    given["text"] = model.ids(given["text"])
                    start = time.perf_counter()
                    made = model(**given)
                    seconds = time.perf_counter() - start
                    first = {}
                    if args.time_first_audio and model.vocoder is not None:
                        first["first_audio_seconds"] = model.first_audio_seconds(
                            **given
                        )
                except (PluginError, RuntimeError) as e:
                    reason = " ".join(str(e).split())
                    logging.error("utterance '%s' is not spoken: %s", key, reason)
                    writer.failure(key, reason)
                    failures.append(f"utterance '{key}': {reason}")
                    model.noise = noise  # the others have theirs
                    continue
                size = len(made["feat_gen" if "feat_gen" in made else "wav"])
                logging.info("%s (size:%d->%d)", key, model.symbols, size)
                logging.info("inference speed = %.1f / sec.", size / seconds)
                writer.utterance(key, made, model.fs)
                writer.timing(
                    key=key,
                    audio_seconds=model.audio_seconds(made),
                    acoustic_seconds=model.seconds["acoustic"],
                    vocoder_seconds=model.seconds["vocoder"],
                    **first,
                    total_seconds=seconds,
                    peak_memory_mb=peak_memory_mb(),
                    arithmetic=arithmetic(model.bundle.manifest),
                )
            if failures:
                raise IncompleteError(
                    f"{len(failures)} of {len(keys)} utterances could not be spoken, "
                    f"the file {FAILED} names them; the first: {failures[0]}"
                )
        logging.info("spoke %d utterances into %s", len(keys), args.output_dir)


COMMAND = Synthesis(
    "tts_inference",
    TtsOptions,
    unsupported=("dtype", "vocoder_config", "vocoder_file", "vocoder_tag"),
    without_effect=LOADING,
)

main = COMMAND.main

if __name__ == "__main__":
    main()
