"""Decode with a bundle: ``espnet2.bin.asr_inference`` without torch and ESPnet."""

import argparse
import logging
from typing import Any, Optional, Sequence, Tuple

from espnet_onnx_plugin.bin._common import ArgumentParser, run, str2bool, str_or_none
from espnet_onnx_plugin.errors import PluginError

#: Options of ESPnet's command that decoding configurations carry, with the only value
#: that is supported here and what to do about another one.
UNSUPPORTED = {
    "dtype": ("float32", "graphs have their own precision"),
    "streaming": (False, "streaming search is not supported yet"),
    "enh_s2t_task": (False, "joint enhancement is not supported yet"),
    "quantize_asr_model": (False, "use the int8 bundle"),
    "quantize_lm": (False, "use the int8 bundle"),
    "hugging_face_decoder": (False, "Hugging Face decoders are not supported yet"),
    "transducer_conf": (None, "transducers are not supported yet"),
    "partial_ar": (False, "partially autoregressive search is not supported yet"),
    "word_lm_train_config": (None, "word language models are not supported"),
    "lang_prompt_token": (None, "prompts are not supported yet"),
    "nlp_prompt_token": (None, "prompts are not supported yet"),
    "prompt_token_file": (None, "prompts are not supported yet"),
}

#: Options of ESPnet's command that change nothing here: they choose what an
#: unsupported feature does, or how torch loads data.
WITHOUT_EFFECT = (
    "seed",
    "num_workers",
    "allow_variable_data_keys",
    "quantize_modules",
    "quantize_dtype",
    "hugging_face_decoder_conf",
    "threshold_probability",
    "max_seq_len",
    "max_mask_parallel",
    "token_type",
    "bpemodel",
)

SEARCH_OPTIONS = (
    "maxlenratio",
    "minlenratio",
    "beam_size",
    "ctc_weight",
    "lm_weight",
    "ngram_weight",
    "penalty",
    "nbest",
    "normalize_length",
    "time_sync",
    "multi_asr",
)


#: How sessions are made, see ``runtime.session.Device``.
SESSION_OPTIONS = {
    "spinning": (False, "threads that wait for work keep their core busy"),
    "arena": (True, "freed memory is kept for the next utterance"),
    "memory_pattern": (False, "memory is planned for the first utterance's shape"),
}


def triple(value: str) -> Tuple[str, str, str]:
    """``PATH,NAME,TYPE``."""
    parts = value.rsplit(",", 2)
    if len(parts) != 3:
        raise argparse.ArgumentTypeError(f"'{value}' is not PATH,NAME,TYPE")
    return parts[0].strip(), parts[1].strip(), parts[2].strip()


def get_parser() -> ArgumentParser:
    """The options, with ESPnet's names and defaults."""
    parser = ArgumentParser(
        prog="asr_inference", description="Decode speech with an ONNX bundle"
    )
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
    for name, (default, about) in SESSION_OPTIONS.items():
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
        type=int,
        default=1,
        help="utterances of similar length that are decoded together; the results are "
        "those of one at a time",
    )

    group = parser.add_argument_group("Search, as in espnet2.bin.asr_inference")
    group.add_argument("--nbest", type=int, default=1)
    group.add_argument("--beam_size", type=int, default=20)
    group.add_argument("--penalty", type=float, default=0.0, help="insertion penalty")
    group.add_argument(
        "--maxlenratio",
        type=float,
        default=0.0,
        help="0: end detection; positive: share of the frames; negative: a constant",
    )
    group.add_argument("--minlenratio", type=float, default=0.0)
    group.add_argument("--ctc_weight", type=float, default=0.5)
    group.add_argument("--lm_weight", type=float, default=1.0)
    group.add_argument("--ngram_weight", type=float, default=0.9)
    group.add_argument("--normalize_length", type=str2bool, default=False)
    group.add_argument(
        "--time_sync", type=str2bool, default=False, help="time-synchronous search"
    )
    group.add_argument(
        "--multi_asr",
        type=str2bool,
        default=False,
        help="whether the model tells several speakers apart",
    )
    for name, (default, _) in UNSUPPORTED.items():
        parser.add_argument(f"--{name}", default=default, help=argparse.SUPPRESS)
    for name in WITHOUT_EFFECT:
        parser.add_argument(f"--{name}", nargs="*", help=argparse.SUPPRESS)
    return parser


def _check(args: argparse.Namespace) -> Tuple[str, str]:
    """Refuse what is not supported; return the scp file and its type."""
    for name, (supported, remedy) in UNSUPPORTED.items():
        value: Any = getattr(args, name)
        if isinstance(supported, bool):
            value = str2bool(value)
        elif isinstance(supported, int):
            value = int(value)
        elif isinstance(value, str) and supported is None:
            value = str_or_none(value)
        if value != supported:
            raise PluginError(f"--{name} {value} is not supported: {remedy}")
    data = args.data_path_and_name_and_type
    if isinstance(data[0], str):  # from a YAML file, where types are not applied
        data = [triple(value) for value in data]
    if [name for _, name, _ in data] != ["speech"]:
        raise PluginError(
            "--data_path_and_name_and_type has to name one input called speech, not "
            + ", ".join(name for _, name, _ in data)
        )
    return data[0][0], data[0][2]


def inference(args: argparse.Namespace) -> None:
    """Decode every utterance and write the results."""
    path, kind = _check(args)

    from tqdm.contrib.logging import logging_redirect_tqdm

    from espnet_onnx_plugin.runtime.asr import Speech2Text
    from espnet_onnx_plugin.runtime.data import Source, iterate, read_keys
    from espnet_onnx_plugin.runtime.decode import decode
    from espnet_onnx_plugin.runtime.memory import peak_memory_mb
    from espnet_onnx_plugin.runtime.progress import progress
    from espnet_onnx_plugin.runtime.writer import result_writer

    if args.batch_size < 1:
        raise PluginError(f"--batch_size {args.batch_size} must be 1 or more")
    provider = args.provider or ("cuda" if args.ngpu > 0 else "cpu")
    source = Source(path, kind)
    keys = read_keys(args.key_file) if args.key_file else list(source.entries())
    speech2text = Speech2Text(
        args.model_dir,
        provider,
        args.num_threads,
        {name: getattr(args, name) for name in SESSION_OPTIONS},
        **{name: getattr(args, name) for name in SEARCH_OPTIONS},
    )
    with result_writer(args.output_dir) as writer, logging_redirect_tqdm():
        utterances = progress(iterate(source, keys), len(keys))
        for decoded in decode(speech2text, utterances, args.batch_size):
            timing = decoded.timing
            writer.results(decoded.key, decoded.results, decoded.intermediate)
            writer.timing(
                key=decoded.key,
                audio_seconds=decoded.audio_seconds,
                encoder_seconds=timing.frontend + timing.encoder,
                search_seconds=timing.decoder + timing.lm + timing.ctc + timing.rest,
                total_seconds=decoded.total_seconds,
                peak_memory_mb=peak_memory_mb(),
            )
    logging.info("decoded %d utterances into %s", len(keys), args.output_dir)


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Entry point."""
    run(get_parser(), inference, cmd)


if __name__ == "__main__":
    main()
