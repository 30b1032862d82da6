"""Building an architecture of the list with the installed ESPnet, weights random."""

import argparse
import contextlib
import copy
import functools
import importlib
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.checkpoints import losses_left_out
from espnet_onnx_plugin.export.registry import find

#: ESPnet's task by what the list calls it: module of espnet2.tasks, class.
_TASK_CLASSES = {
    "asr": ("asr", "ASRTask"),
    "asr_transducer": ("asr_transducer", "ASRTransducerTask"),
    "st": ("st", "STTask"),
    "slu": ("slu", "SLUTask"),
    "s2t": ("s2t", "S2TTask"),
    "s2t_ctc": ("s2t_ctc", "S2TTask"),
    "lm": ("lm", "LMTask"),
    "tts": ("tts", "TTSTask"),
    "svs": ("svs", "SVSTask"),
    "enh": ("enh", "EnhancementTask"),
    "enh_tse": ("enh_tse", "TargetSpeakerExtractionTask"),
    "enh_asr": ("enh_s2t", "EnhS2TTask"),
    "diar": ("diar", "DiarizationTask"),
    "enh_diar": ("enh_s2t", "EnhS2TTask"),
}

_LETTERS = [*"abcdefghijklmnopqrstuvwx", "<space>"]

#: Token lists by task; Whisper-style models need their special symbols.
TOKENS = {
    # The first two start the sequences of multitask language models.
    "default": [
        *("<blank>", "<unk>", "<generatetext>", "<generatespeech>"),
        *_LETTERS,
        "<sos/eos>",
    ],
    "s2t": [
        *("<blank>", "<unk>", "<na>", "<nospeech>"),
        *("<abk>", "<eng>", "<zul>", "<asr>", "<st_eng>", "<notimestamps>"),
        *(f"<{0.1 * i:.2f}>" for i in range(13)),
        *_LETTERS,
        *("<sos>", "<eos>", "<sop>"),
    ],
}
TOKENS["s2t_ctc"] = TOKENS["s2t"]


#: OWSM's preprocessing: what its models read is padded to this many seconds.
S2T_PREPROCESSOR = dict(
    fs=8000,
    na_symbol="<na>",
    speech_length=1.2,
    speech_resolution=0.1,
    notime_symbol="<notimestamps>",
    first_time_symbol="<0.00>",
    last_time_symbol="<1.20>",
)

_MELS = 10

#: What the options of tts.sh set, by the features that a recipe trains the model on.
_TTS_SH = {
    "fbank": dict(
        feats_extract="fbank",
        feats_extract_conf=dict(
            fs=8000, n_fft=64, win_length=50, hop_length=8, n_mels=_MELS, fmax=3800
        ),
        normalize="global_mvn",
    ),
    "linear_spectrogram": dict(
        feats_extract="linear_spectrogram",
        feats_extract_conf=dict(n_fft=64, hop_length=8),
        normalize=None,
    ),
}

#: Likewise svs.sh: of frames of songs and of their scores.
_SVS_SH = dict(fs=8000, n_fft=64, win_length=64, hop_length=8)

#: Of singers that make waveforms: what their generators take the rates from.
_SINGING = dict(
    sampling_rate=8000,
    mel_loss_params=dict(_SVS_SH, window="hann", n_mels=_MELS, fmin=0, fmax=None),
)

#: Of models that are trained against a discriminator: the smallest one.
_DISCRIMINATOR = dict(
    discriminator_type="hifigan_period_discriminator",
    discriminator_params=dict(period=2, channels=4, downsample_scales=[2]),
)


def find_task(task: str, svs: str | None = None) -> type:
    """ESPnet's class of a task, which for some singers (``svs``) is that of gan_svs."""
    module, name = _TASK_CLASSES[task]
    if svs == "vits":
        module, name = "gan_svs", "GANSVSTask"
    return getattr(importlib.import_module(f"espnet2.tasks.{module}"), name)


def training_config(architecture: dict[str, Any]) -> dict[str, Any]:
    """Content of ``config.yaml``, as ESPnet would write it for an entry of the list."""
    task, config = architecture["task"], architecture["config"]
    durations = config.get("model_conf", {}).get("transducer_multi_blank_durations", ())
    blanks = [f"<blank{duration}>" for duration in reversed(durations)]
    tokens = [*blanks, *TOKENS.get(task, TOKENS["default"])]
    cls = find_task(task, config.get("svs"))
    full = {**cls.get_default_config(), "init": None}
    if "specaug" in full:
        full.update(specaug=None)
    # ESPnet's defaults of a choice's settings are those of its default choice.
    full.update({f"{choices.name}_conf": {} for choices in cls.class_choices_list})
    # ESPnet writes into the settings that it builds from.
    full.update(copy.deepcopy(config))
    if task in ("enh", "enh_tse"):
        return full
    if task in ("diar", "enh_diar"):
        number = "num_spk" if task == "diar" else "diar_num_spk"
        return {**full, number: 2}  # an option of the drivers
    full.update(token_list=tokens, token_type="char")
    if task.startswith("s2t"):
        full.update(preprocessor_conf=S2T_PREPROCESSOR)
    if task == "st":
        full.update(src_token_list=tokens, src_token_type="char")
    if config.get("deliberationencoder"):
        full.update(transcript_token_list=tokens)
    if task == "tts":
        full.update(_TTS_SH["linear_spectrogram" if full["tts"] == "vits" else "fbank"])
        if full["normalize"] is not None:
            full.update(normalize_conf=dict(stats_file=_statistics()))
        if full["tts"] in ("vits", "jets", "joint_text2wav"):
            full["tts_conf"].update(_DISCRIMINATOR)
    if task == "svs":
        full.update(_TTS_SH["fbank"], normalize_conf=dict(stats_file=_statistics()))
        full.update(token_type="phn", g2p=None, fs=_SVS_SH["fs"])
        unit = "frame" if full["svs"] == "naive_rnn" else "syllable"
        full.update(score_feats_extract=f"{unit}_score_feats")
        full.update(score_feats_extract_conf=_SVS_SH)
        if full["svs"] in ("vits", "joint_score2wav"):
            full["svs_conf"].update(_DISCRIMINATOR, **_SINGING)
        if full["svs"] == "vits":  # which has no default for this one
            params = full["svs_conf"].setdefault("generator_params", {})
            params.setdefault("use_phoneme_predictor", False)
    return full


@functools.cache
def _work() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory()  # goes when the process ends


def _statistics() -> str:
    """A file of ``global_mvn`` for features of text-to-speech."""
    path = Path(_work().name) / "feats_stats.npz"
    random = np.random.default_rng(0)
    mean, power = random.standard_normal(_MELS), 4 + random.random(_MELS)
    np.savez(path, count=1, sum=mean, sum_square=power)
    return str(path)


def build(architecture: dict[str, Any], seed: int = 0):
    """ESPnet's model with the weights of :func:`randomize`, in eval mode."""
    import torch

    torch.manual_seed(seed)
    args = argparse.Namespace(**training_config(architecture))
    with losses_left_out():
        task = find_task(architecture["task"], architecture["config"].get("svs"))
        model = task.build_model(args).eval()
    randomize(model, seed)
    return model


def randomize(model, seed: int = 0) -> None:
    """Give a model random weights.

    Those of a part (encoder, decoder, ...) depend on that part alone, so that models
    that have it in common have its weights in common.
    """
    import torch

    for part in _parts(model):
        torch.manual_seed(seed)
        for module in part.modules():
            if type(module).__module__.startswith("torch.nn.modules"):
                getattr(module, "reset_parameters", lambda: None)()
            if isinstance(module, torch.nn.BatchNorm1d):
                # Fresh statistics are 0 and 1, which would hide a mistake.
                module.running_mean.normal_(0.0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
            if getattr(module, "use_bias", False):  # ESPnet leaves what memory held
                module.bias.data.zero_()
        is_score = ".diffusion." in type(part).__module__
        for parameter in part.parameters():
            # ESPnet starts biases and scales at 0 and 1. The sums of a score model,
            # which is not tiny, would overflow layer by layer.
            inputs = parameter[0].numel() if parameter.dim() > 1 else 1
            noise = 6.4 / inputs if is_score and inputs > 256 else 0.1
            parameter.data += noise * torch.randn_like(parameter)


def _parts(model) -> Iterator[Any]:
    for name, part in model.named_children():
        if name in (
            "tts",
            "svs",
            "generator",
            "text2mel",
            "score2mel",
        ):  # of one module
            yield from _parts(part)
        else:
            yield part


def sharpen(model, vocabulary: int) -> None:
    """Scale the output layers so that a random model's choices are not all alike."""
    import torch

    for name, part in model.named_children():
        for layer in part.modules():
            if isinstance(layer, torch.nn.Linear) and layer.out_features == vocabulary:
                layer.weight.data *= 6.0
                if name == "decoder":
                    layer.bias.data[model.eos] -= 3.0  # or most end at once
                elif name.endswith("joint_network"):
                    blank = getattr(model, "blank_id", 0)  # 0 in stand-alone models
                    layer.bias.data[: blank + 1] += 3.0  # or labels do not end


def lengthen(model) -> None:
    """Make a random model speak or sing for several frames."""
    for name, layer in model.named_modules():
        if name.endswith("prob_out"):  # or it stops at once
            layer.bias.data -= 3.0
        elif name.endswith("duration_predictor.linear"):  # or no symbol lasts
            layer.bias.data += 2.0
        elif name.endswith("duration_predictor.proj"):  # in seconds: or some last many
            layer.weight.data *= 0.01
            layer.bias.data.fill_(0.005)
        elif name.endswith("f0_decoder.proj"):  # or most is not voiced
            layer.bias.data += 1.0


def why_not_built(architecture: dict[str, Any]) -> str | None:
    """Reason why ESPnet cannot build this without a network; None if it can."""

    def refuse(*_, **__):
        raise OSError("no network")

    quiet = contextlib.redirect_stdout(io.StringIO())  # ESPnet's advice to install
    with quiet, mock.patch("socket.getaddrinfo", refuse):
        with contextlib.suppress(PluginError):  # the package loads as for the export
            find("frontend", architecture["config"].get("frontend")).needs()
        try:
            build(architecture)
        except ImportError as e:
            return f"package: {e.name or ' '.join(str(e).split())[:60]}"
        except OSError as e:
            return f"weights: {e.filename or ' '.join(str(e).split())[:60]}"
        except (Exception, SystemExit) as e:
            return f"ESPnet: {' '.join(str(e).split())[:90]}"
    return None
