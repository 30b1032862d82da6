"""What the decoding commands share: ``espnet2.bin.*_inference`` without torch."""

import argparse
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Dict, Mapping, Optional, Sequence, Tuple

from espnet_onnx_plugin.bin._common import (
    ArgumentParser,
    anything,
    at_least_one,
    run,
    str2bool,
    str_or_none,
    triple,
)
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.device import Device

if TYPE_CHECKING:
    from espnet_onnx_plugin.runtime.io.data import Source

#: How sessions are made: attributes of :class:`Device`.
SESSION_OPTIONS = {
    "spinning": "threads that wait for work keep their core busy",
    "arena": "freed memory is kept for the next utterance",
    "memory_pattern": "memory is planned for the first utterance's shape",
}


def _base_parser(name: str) -> ArgumentParser:
    parser = ArgumentParser(prog=name, description="Decode speech with an ONNX bundle")
    parser.add_argument("--model_dir", required=True, help="the bundle")
    parser.add_argument("--output_dir", required=True, help="directory of the results")
    parser.add_argument(
        "--provider",
        choices=("cpu", "cuda"),
        help="where graphs run; default: cuda if --ngpu is above 0, else cpu",
    )
    parser.add_argument("--num_threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--ngpu", type=int, default=0, help="0: CPU, 1: CUDA")
    group = parser.add_argument_group("onnxruntime's sessions")
    for name, about in SESSION_OPTIONS.items():
        default = getattr(Device, name)
        group.add_argument(f"--{name}", type=str2bool, default=default, help=about)

    group = parser.add_argument_group("Input data")
    group.add_argument(
        "--data_path_and_name_and_type",
        type=triple,
        action="append",
        required=True,
        help="PATH,speech,TYPE with TYPE sound, kaldi_ark, multi_columns_sound or npy",
    )
    group.add_argument("--key_file", type=str_or_none, help="utterances to decode")
    group.add_argument(
        "--batch_size",
        type=at_least_one,
        default=1,
        help="utterances of similar length that are decoded together; the results are "
        "those of one at a time",
    )

    return parser


#: Options of a search, which every decoding command of ESPnet has.
SEARCH: Mapping[str, Mapping[str, Any]] = {
    "nbest": dict(type=int, default=1),
    "beam_size": dict(type=int, default=20),
    "penalty": dict(type=float, default=0.0, help="insertion penalty"),
    "maxlenratio": dict(
        type=float,
        default=0.0,
        help="0: end detection; positive: share of the frames; negative: a constant",
    ),
    "minlenratio": dict(type=float, default=0.0),
    "ctc_weight": dict(type=float, default=0.5),
    "lm_weight": dict(type=float, default=1.0),
    "ngram_weight": dict(type=float, default=0.9),
    "normalize_length": dict(type=str2bool, default=False),
    "ctm": dict(
        type=str2bool,
        default=False,
        help="also write when tokens and words were spoken (by the CTC; not an option "
        "of ESPnet)",
    ),
}

#: Options of ESPnet's commands that decoding configurations carry, with the only value
#: that is supported here and what to do about another one.
UNSUPPORTED: Mapping[str, Tuple[Any, str]] = {
    "dtype": ("float32", "graphs have their own precision"),
    "quantize_lm": (False, "use the int8 bundle"),
    "word_lm_train_config": (None, "word language models are not supported"),
}

#: How those are read, by the type of the supported value.
_TYPES = {bool: str2bool, int: int, str: str, type(None): anything}

#: Options of ESPnet's commands that change nothing here: they choose what an
#: unsupported feature does, or how torch loads data.
WITHOUT_EFFECT = (
    "seed",
    "num_workers",
    "allow_variable_data_keys",
    "quantize_modules",
    "quantize_dtype",
    "token_type",
    "bpemodel",
)


@dataclass(frozen=True)
class Inference:
    """A decoding command, the counterpart of ESPnet's of the same name.

    Attributes:
        name: of the command, e.g. ``asr_inference``.
        options: those that the class takes, with what argparse has to know.
        unsupported: as :data:`UNSUPPORTED`.
        without_effect: as :data:`WITHOUT_EFFECT`.
        texts: names of inputs besides the audio; they are texts, and may be left out.
    """

    name: str
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: SEARCH)
    unsupported: Mapping[str, Tuple[Any, str]] = field(
        default_factory=lambda: UNSUPPORTED
    )
    without_effect: Sequence[str] = WITHOUT_EFFECT
    texts: Sequence[str] = ()

    def get_parser(self) -> ArgumentParser:
        """The options, with ESPnet's names and defaults."""
        parser = _base_parser(self.name)
        group = parser.add_argument_group(f"Search, as in espnet2.bin.{self.name}")
        for name, argument in self.options.items():
            group.add_argument(f"--{name}", **argument)
        for name, (default, _) in self.unsupported.items():
            parser.add_argument(
                f"--{name}",
                type=_TYPES[type(default)],
                default=default,
                help=argparse.SUPPRESS,
            )
        for name in self.without_effect:
            parser.add_argument(
                f"--{name}", type=anything, nargs="*", help=argparse.SUPPRESS
            )
        return parser

    def decoding_options(self, args: argparse.Namespace) -> Dict[str, Any]:
        """Of parsed options, those that the class that decodes takes."""
        return {name: getattr(args, name) for name in self.options}

    def check(self, args: argparse.Namespace) -> None:
        """Refuse what is not supported.

        Raises:
            PluginError: naming an option and its remedy.
        """
        for name, (supported, remedy) in self.unsupported.items():
            value: Any = getattr(args, name)
            if value != supported:
                raise PluginError(f"--{name} {value} is not supported: {remedy}")

    def run(self, args: argparse.Namespace) -> None:
        """Decode every utterance and write the results."""
        self.check(args)
        source, others = self._inputs(args)

        from tqdm.contrib.logging import logging_redirect_tqdm

        from espnet_onnx_plugin.runtime.core.arithmetic import arithmetic
        from espnet_onnx_plugin.runtime.io.data import iterate, read_keys
        from espnet_onnx_plugin.runtime.io.memory import peak_memory_mb
        from espnet_onnx_plugin.runtime.io.progress import progress
        from espnet_onnx_plugin.runtime.io.writer import result_writer
        from espnet_onnx_plugin.runtime.recognition.decode import decode
        from espnet_onnx_plugin.tasks import door_called

        provider = args.provider or ("cuda" if args.ngpu > 0 else "cpu")
        keys = read_keys(args.key_file) if args.key_file else list(source.entries())
        model = door_called(self.name).load()(
            args.model_dir,
            provider,
            args.num_threads,
            {name: getattr(args, name) for name in SESSION_OPTIONS},
            **self.decoding_options(args),
        )
        with result_writer(args.output_dir) as writer, logging_redirect_tqdm():
            utterances = progress(iterate(source, keys), len(keys))
            for decoded in decode(model, utterances, args.batch_size, others):
                timing = decoded.timing
                writer.results(decoded.key, model.files(decoded.results))
                writer.timing(
                    key=decoded.key,
                    audio_seconds=decoded.audio_seconds,
                    encoder_seconds=timing.frontend + timing.encoder,
                    search_seconds=timing.decoder
                    + timing.lm
                    + timing.ctc
                    + timing.rest,
                    total_seconds=decoded.total_seconds,
                    peak_memory_mb=peak_memory_mb(),
                    arithmetic=arithmetic(model.bundle.manifest),
                )
        logging.info("decoded %d utterances into %s", len(keys), args.output_dir)

    def _inputs(
        self, args: argparse.Namespace
    ) -> "Tuple[Source, Dict[str, Dict[str, str]]]":
        """The audio, and the texts beside it by name and utterance."""
        from espnet_onnx_plugin.runtime.io.data import Source, read_scp

        data = args.data_path_and_name_and_type
        files = {name: (path, kind) for path, name, kind in data}
        speech = files.pop("speech", None)
        if speech is None or len(files) + 1 < len(data) or set(files) - set(self.texts):
            names = ", ".join(name for _, name, _ in data)
            raise PluginError(
                "--data_path_and_name_and_type has to name one input called speech"
                + "".join(f" and at most one called {text}" for text in self.texts)
                + f", not {names}"
            )
        for name, (path, kind) in files.items():
            if kind != "text":
                raise PluginError(f"{path}: type '{kind}' of {name} has to be text")
        texts = {name: read_scp(path) for name, (path, _) in files.items()}
        return Source(*speech), texts

    def main(self, cmd: Optional[Sequence[str]] = None) -> None:
        """Entry point."""
        run(self.get_parser(), self.run, cmd)
