"""Base of the decoding commands: ``espnet2.bin.*_inference`` without torch."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import espnet_onnx_plugin
from espnet_onnx_plugin.bin._common import run
from espnet_onnx_plugin.bin._parser import (
    READERS,
    ArgumentParser,
    add_force,
    add_options,
    add_wait,
    anything,
    at_least_one,
    str_or_none,
    triple,
    values_of,
)
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.device import PROVIDERS, Device
from espnet_onnx_plugin.tasks import TASKS, door_called

if TYPE_CHECKING:
    from espnet_onnx_plugin.runtime.io.data import Source
    from espnet_onnx_plugin.runtime.io.digests import InputDigests
    from espnet_onnx_plugin.runtime.io.job import Job
    from espnet_onnx_plugin.runtime.io.writer import JobWriter

_INT8 = "use the int8 bundle"
_WORD_LM = "word language models are not supported"
_VOCODER = "the bundle has its vocoder: give it to the export"

#: Options of ESPnet's commands that decoding configurations carry, with the only value
#: that is supported here and what to do about another one.
UNSUPPORTED: Mapping[str, tuple[str | bool | None, str]] = {
    "dtype": ("float32", "graphs have their own precision"),
    "quantize_lm": (False, _INT8),
    "quantize_asr_model": (False, _INT8),
    "quantize_s2t_model": (False, _INT8),
    "word_lm_train_config": (None, _WORD_LM),
    "src_word_lm_train_config": (None, _WORD_LM),
    "streaming": (False, "streaming search is not supported yet"),
    "enh_s2t_task": (False, "joint enhancement is not supported yet"),
    "transducer_conf": (None, "transducers have no search over streams, as in ESPnet"),
    "partial_ar": (False, "partially autoregressive search is not supported yet"),
    "prompt_token_file": (None, "tokens cannot be added to a bundle's"),
    "run_chunk": (False, "classification of chunks is not supported"),
    "generate_interctc_outputs": (
        False,
        "the graphs have no outputs of intermediate layers",
    ),
    "vocoder_config": (None, _VOCODER),
    "vocoder_file": (None, _VOCODER),
    "vocoder_tag": (None, _VOCODER),
    "vocoder_checkpoint": (None, _VOCODER),
    "use_singomd": (False, "vocoders of several resolutions are not supported"),
}

#: Options of ESPnet's commands that say how torch loads data; they change nothing here.
LOADING = ("num_workers", "allow_variable_data_keys")

#: Those, and options that choose what an unsupported feature does.
WITHOUT_EFFECT = (
    "seed",
    *LOADING,
    "quantize_modules",
    "quantize_dtype",
    "token_type",
    "bpemodel",
)

#: Options that do not decide what the results of an utterance are.
_NOT_FACTS = (
    "config",
    "log_level",
    "wait",
    "model_dir",
    "output_dir",
    "key_file",
    "data_path_and_name_and_type",
    "batch_size",
    "batch_bins",
    "max_failures",
    "time_limit",
    "force",
    "earlier_dir",
    "time_first_audio",
)

#: Options of ``partial_ar``.
OF_PARTIAL_AR = ("threshold_probability", "max_seq_len", "max_mask_parallel")


@dataclass(frozen=True)
class Inference:
    """A decoding command, the counterpart of ESPnet's of the same name.

    Attributes:
        name: of the command, e.g. ``asr_inference``.
        options: data class of its options; the class that decodes may take more.
        unsupported: names in :data:`UNSUPPORTED`.
        without_effect: as :data:`WITHOUT_EFFECT`.
    """

    name: str
    options: type
    unsupported: Sequence[str]
    without_effect: Sequence[str] = WITHOUT_EFFECT

    def get_parser(self) -> ArgumentParser:
        """The options, with ESPnet's names and defaults."""
        parser = ArgumentParser(
            prog=self.name, description="Decode speech with an ONNX bundle"
        )
        parser.add_argument("--model_dir", required=True, help="the bundle")
        parser.add_argument(
            "--output_dir", required=True, help="directory of the results"
        )
        add_wait(parser)
        parser.add_argument(
            "--provider",
            choices=tuple(PROVIDERS),
            help="where graphs run; default: cuda if --ngpu is above 0, else cpu",
        )
        parser.add_argument("--num_threads", type=int, default=1, help="CPU threads")
        parser.add_argument("--ngpu", type=int, default=0, help="0: CPU, 1: CUDA")
        add_options(parser.add_argument_group("onnxruntime's sessions"), Device)
        group = parser.add_argument_group("Input data")
        group.add_argument(
            "--data_path_and_name_and_type",
            type=triple,
            action="append",
            required=True,
            help="PATH,speech,TYPE with TYPE sound, kaldi_ark, multi_columns_sound or "
            "npy",
        )
        group.add_argument("--key_file", type=str_or_none, help="utterances to decode")
        group.add_argument(
            "--batch_size",
            type=at_least_one,
            default=1,
            help="utterances of similar length that are decoded together; the results "
            "are those of one at a time; with --batch_bins, 1 is any number",
        )
        group.add_argument(
            "--batch_bins",
            type=at_least_one,
            help="limit of a batch's padded size, counted as in ESPnet's training: "
            "utterances times the samples of the longest, or of features its frames "
            "times their dimension; a larger utterance is decoded alone",
        )
        group = parser.add_argument_group("Failures")
        group.add_argument(
            "--max_failures",
            type=int,
            default=0,
            help="how many utterances may fail; they get an empty result, or none "
            "where waveforms are made",
        )
        group.add_argument(
            "--time_limit",
            type=at_least_one,
            help="seconds after which no further utterance is begun; those that are "
            "done are kept, and the command, given again, goes on with the others",
        )
        add_force(parser)
        # Of the recipe's stages: results of earlier jobs, which are not repeated.
        group.add_argument("--earlier_dir", type=Path, help=argparse.SUPPRESS)
        group = parser.add_argument_group(f"Search, as in espnet2.bin.{self.name}")
        add_options(group, self.options)
        for name in self.unsupported:
            default, _ = UNSUPPORTED[name]
            parser.add_argument(
                f"--{name}",
                type=READERS.get(type(default), str),
                default=default,
                help=argparse.SUPPRESS,
            )
        for name in self.without_effect:
            parser.add_argument(
                f"--{name}", type=anything, nargs="*", help=argparse.SUPPRESS
            )
        return parser

    def check(self, args: argparse.Namespace) -> None:
        """Refuse what is not supported.

        Raises:
            PluginError: naming an option and its remedy.
        """
        for name in self.unsupported:
            supported, remedy = UNSUPPORTED[name]
            value = getattr(args, name)
            if value != supported:
                raise PluginError(f"--{name} {value} is not supported: {remedy}")
        if args.ngpu > 1:
            raise PluginError(
                f"--ngpu {args.ngpu}: a process decodes with one GPU; give each of "
                "several its own utterances by --key_file"
            )

    def open_model(self, args: argparse.Namespace) -> Any:
        """The bundle, opened by the class that the command decodes with."""
        provider = args.provider or ("cuda" if args.ngpu > 0 else "cpu")
        return door_called(self.name).load()(
            args.model_dir,
            provider,
            args.num_threads,
            values_of(args, Device),
            **values_of(args, self.options),
        )

    def facts(self, args: argparse.Namespace) -> dict[str, Any]:
        """Model, options and versions, on which the results depend."""
        import onnxruntime

        from espnet_onnx_plugin.bundle import MANIFEST, read_manifest, sha256

        read_manifest(args.model_dir)  # or it is refused
        options = {k: v for k, v in vars(args).items() if k not in _NOT_FACTS}
        facts = {
            "command": self.name,
            "bundle": sha256(Path(args.model_dir, MANIFEST)),
            "espnet_onnx_plugin": espnet_onnx_plugin.__version__,
            "onnxruntime": onnxruntime.__version__,
            "options": options,
        }
        made: dict[str, Any] = json.loads(json.dumps(facts, default=str))
        return made

    def digests(self, args: argparse.Namespace) -> InputDigests:
        """Digests of what the utterances are made of."""
        from espnet_onnx_plugin.runtime.io.digests import InputDigests

        data = args.data_path_and_name_and_type
        return InputDigests((path, kind) for path, _, kind in data)

    def job(self, args: argparse.Namespace, keys: Sequence[str]) -> Job:
        """The job of decoding ``keys``."""
        from espnet_onnx_plugin.runtime.io.job import Job

        return Job(
            Path(args.output_dir),
            keys,
            self.facts(args),
            self.digests(args),
            args.max_failures,
            args.force,
            args.earlier_dir,
        )

    @property
    def writer(self) -> type[JobWriter]:
        """Class of what writes the results."""
        from espnet_onnx_plugin.runtime.io.writer import ResultWriter

        return ResultWriter

    def run(self, args: argparse.Namespace) -> None:
        """Decode every utterance and write the results."""
        self.check(args)
        source, others = self._inputs(args)

        from tqdm.contrib.logging import logging_redirect_tqdm

        from espnet_onnx_plugin.runtime.core.arithmetic import arithmetic
        from espnet_onnx_plugin.runtime.io.data import attempts
        from espnet_onnx_plugin.runtime.io.lists import read_keys
        from espnet_onnx_plugin.runtime.io.memory import peak_memory_mb
        from espnet_onnx_plugin.runtime.io.progress import progress
        from espnet_onnx_plugin.runtime.io.writer import ResultWriter, job_writer
        from espnet_onnx_plugin.runtime.recognition.decode import BatchLimits, decode

        keys = read_keys(args.key_file) if args.key_file else list(source.entries())
        model = self.open_model(args)
        job = self.job(args, keys)
        with job_writer(ResultWriter, job) as writer, logging_redirect_tqdm():
            left = [key for key in keys if not writer.kept(key)]
            writer.log_kept()
            read = attempts(source, left, model.speech.dtype)
            utterances = progress(read, len(left), args.time_limit)
            limits = BatchLimits(args.batch_size, args.batch_bins)
            for decoded in decode(model, utterances, limits, others):
                timing = decoded.timing
                writer.results(model.files(decoded.results))
                if decoded.failure is not None:
                    writer.failure(decoded.key, decoded.failure)
                    continue
                figures = dict(
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
                writer.record(decoded.key, figures)
        logging.info("decoded %d utterances into %s", len(keys), args.output_dir)

    def _inputs(
        self, args: argparse.Namespace
    ) -> tuple[Source, dict[str, dict[str, str]]]:
        """The audio, and the texts beside it by name and utterance."""
        from espnet_onnx_plugin.runtime.io.data import Source
        from espnet_onnx_plugin.runtime.io.lists import read_scp

        door = door_called(self.name)
        [texts] = [task.reads for task in TASKS.values() if door in task.doors]
        data = args.data_path_and_name_and_type
        files = {name: (path, kind) for path, name, kind in data}
        speech = files.pop("speech", None)
        if speech is None or len(files) + 1 < len(data) or set(files) - set(texts):
            names = ", ".join(name for _, name, _ in data)
            raise PluginError(
                "--data_path_and_name_and_type has to name one input called speech"
                + "".join(f" and at most one called {text}" for text in texts)
                + f", not {names}"
            )
        for name, (path, kind) in files.items():
            if kind != "text":
                raise PluginError(f"{path}: type '{kind}' of {name} has to be text")
        others = {name: read_scp(path) for name, (path, _) in files.items()}
        return Source(*speech), others

    def main(self, cmd: Sequence[str] | None = None) -> None:
        """Entry point."""
        run(self.get_parser(), self.run, cmd)
