"""Speak with a bundle: ``espnet2.bin.tts_inference`` without torch and ESPnet."""

import argparse
import copy
import logging
import time
from typing import List

from espnet_onnx_plugin.bin._common import ArgumentParser, str2bool
from espnet_onnx_plugin.bin._inference import SESSION_OPTIONS, Inference
from espnet_onnx_plugin.errors import PluginError


class Speaking(Inference):
    """The command, which makes speech where the others read it."""

    def get_parser(self) -> ArgumentParser:
        """See :class:`Inference`."""
        parser = super().get_parser()
        parser.add_argument(
            "--time_first_audio",
            type=str2bool,
            default=False,
            help="begin every utterance once more, to time the first piece of a stream",
        )
        return parser

    def run(self, args: argparse.Namespace) -> None:
        """Speak every text and write the results."""
        self.check(args)

        from tqdm.contrib.logging import logging_redirect_tqdm

        from espnet_onnx_plugin.runtime.core.arithmetic import arithmetic
        from espnet_onnx_plugin.runtime.io.data import read_keys
        from espnet_onnx_plugin.runtime.io.memory import peak_memory_mb
        from espnet_onnx_plugin.runtime.io.progress import progress
        from espnet_onnx_plugin.runtime.io.speech_writer import FAILED, speech_writer
        from espnet_onnx_plugin.runtime.io.writer import IncompleteError
        from espnet_onnx_plugin.runtime.synthesis.inputs import Texts
        from espnet_onnx_plugin.runtime.tts import Text2Speech

        provider = args.provider or ("cuda" if args.ngpu > 0 else "cpu")
        model = Text2Speech(
            args.model_dir,
            provider,
            args.num_threads,
            {name: getattr(args, name) for name in SESSION_OPTIONS},
            **self.decoding_options(args),
        )
        texts = Texts(args.data_path_and_name_and_type).read(model.use_speech)
        keys: List[str] = read_keys(args.key_file) if args.key_file else texts.keys
        if texts.kinds["text"] == "text":
            # A package that is missing here is the fault of no text.
            model.converter.text2ids("")
        if args.batch_size > 1:
            logging.info("--batch_size has no effect: texts are spoken one by one")
        failures: List[str] = []
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


COMMAND = Speaking(
    name="tts_inference",
    options={
        "maxlenratio": dict(type=float, default=10.0, help="most frames per symbol"),
        "minlenratio": dict(type=float, default=0.0, help="fewest frames per symbol"),
        "threshold": dict(type=float, default=0.5, help="probability of the stop"),
        "use_att_constraint": dict(type=str2bool, default=False),
        "backward_window": dict(type=int, default=1, help="of the constraint"),
        "forward_window": dict(type=int, default=3, help="of the constraint"),
        "use_teacher_forcing": dict(type=str2bool, default=False),
        "speed_control_alpha": dict(type=float, default=1.0, help="above 1 is slower"),
        "noise_scale": dict(type=float, default=0.667, help="of VITS' flow"),
        "noise_scale_dur": dict(type=float, default=0.8, help="of VITS' durations"),
        "seed": dict(type=int, default=0, help="of all that is drawn"),
        "always_fix_seed": dict(
            type=str2bool, default=False, help="begin every utterance with the seed"
        ),
    },
    unsupported={
        "dtype": ("float32", "graphs have the bundle's precision"),
        "vocoder_config": (None, "the bundle has its vocoder: give it to the export"),
        "vocoder_file": (None, "the bundle has its vocoder: give it to the export"),
        "vocoder_tag": (None, "the bundle has its vocoder: give it to the export"),
    },
    without_effect=("num_workers", "allow_variable_data_keys"),
)

main = COMMAND.main

if __name__ == "__main__":
    main()
