"""From ESPnet's training configurations to distinct architectures of tiny size."""

import copy
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from sweeping.build import find_task
from sweeping.sizes import BOTTLENECK_SIZES, SIZES, SIZES_OF

#: What a recipe's directory trains, by the name of the directory.
TASKS = {
    "asr1": "asr",
    "st1": "st",
    "slu1": "slu",
    "s2t1": "s2t",
    "lm1": "lm",
    "tts1": "tts",  # and what gan_tts trains, which decodes as tts
    "svs1": "svs",  # likewise gan_svs
    "enh1": "enh",
    "tse1": "enh_tse",
    "enh_asr1": "enh_asr",
    "diar1": "diar",
    "enh_diar1": "enh_diar",
}

#: Choices that change how a model is trained or its text is read, not the model.
NOT_ARCHITECTURE = ("specaug", "preprocessor", "label_aggregator")

#: The choices of a training configuration that are architecture, where the others are
#: options of the recipe's driver (the features) or of the training (pitch, energy).
#: Of joint models, those of the parts that there are.
CHOICES = {
    "tts": ("tts",),
    "svs": ("svs", "postfrontend"),
    "enh_diar": (
        *("enh_encoder", "enh_separator", "enh_mask_module", "enh_decoder", "frontend"),
        *("diar_frontend", "diar_normalize", "diar_encoder", "diar_decoder"),
        "diar_attractor",
    ),
}

#: Likewise, in the tasks whose encoders and decoders are transforms.
ENHANCEMENT = ("enh", "enh_tse")

#: Where models that consist of others list the classes that those are chosen from.
_PARTS = {
    "generator": "AVAILABLE_GENERATERS",
    "text2mel": "AVAILABLE_TEXT2MEL",
    "score2mel": "AVAILABLE_SCORE2MEL",
    "vocoder": "AVAILABLE_VOCODER",
}

#: What ESPnet always builds one of, where it builds one at all.
_LOOSE = ("ctc", "joint_net", "st_joint_net", "joint_network", "encoder")

#: Sizes that cost nothing: an architecture keeps them, but they tell none apart.
KERNELS = re.compile(r"(^|_)kernel(_sizes?)?$|_filts$")

#: Parameters that matter in training only.
TRAINING = re.compile(
    r"drop|stochastic_depth_rate|sampling_probability|gradient_checkpoint|lsm_weight"
    r"|length_normalized_loss|report_|collect_stats|autocast|interctc_weight|aux_ctc"
    r"|loss_weights|mask|ignore_id|ignore_nan_grad|reduce|freeze|brctc_|specaug"
    # What follows is of text-to-speech: losses, discriminators, initial weights. (The
    # prenets' dropout acts in synthesis too; every configuration has the default.)
    r"|discriminator|_loss|^lambda_|^loss_type|_pos_weight|guided_attn|weight_norm"
    r"|^init_|stop_gradient|segment_size|cache_generator_outputs|pred_mos|mos_pred"
)

#: Of enhancement, where masks are part of the model.
ENH_TRAINING = re.compile(
    r"drop|^(loss|mask)_type$|stft_consistency|collect_stats|bypass_enh_prob"
    r"|calc_enh_loss|use_checkpoint|flexible_numspk"
)

#: Loss weights: what counts is whether one is 0, 1, or in between.
WEIGHTS = ("ctc_weight", "asr_weight", "mt_weight", "mtlalpha", "st_mtlalpha")

_Config = dict[str, Any]


def collect(espnet_root: Path) -> list[_Config]:
    """Every distinct architecture of a checkout, in the order of their first paths.

    Returns:
        Of each its ``name``, ``task``, tiny ``config``, and the ``configs`` that it
        stands for (paths below egs2; links count, as recipes name them).
    """
    found: dict[str, _Config] = {}
    for path, content in training_configs(espnet_root / "egs2"):
        task, config = architecture(TASKS[path.parts[1]], content)
        key = json.dumps([task, _without_kernels(config)], sort_keys=True)
        entry = found.setdefault(key, dict(task=task, config=config, configs=[]))
        entry["configs"].append(str(path))
    counts: dict[str, int] = {}
    for entry in found.values():
        names = [entry["config"].get(role) for role in _NAMING]
        label = "-".join(filter(None, (entry["task"], *names)))
        counts[label] = counts.get(label, 0) + 1
        entry["name"] = f"{label}-{counts[label]}"
    order = ("name", "task", "config", "configs")
    return [{key: entry[key] for key in order} for entry in found.values()]


def training_configs(egs2: Path) -> Iterator[tuple[Path, _Config]]:
    """Yield the training configurations below ``egs2``, with paths relative to it."""
    for directory in sorted(egs2.glob("*/*/conf")):
        if directory.parent.name not in TASKS:
            continue
        for path in sorted(directory.rglob("*.y*ml")):
            if "inference" in path.parts:  # changes of a trained model's settings
                continue
            try:
                content = yaml.safe_load(path.read_text(encoding="utf-8"))
            except (OSError, yaml.YAMLError):  # dangling links, broken files
                continue
            if isinstance(content, dict) and (_MODEL & set(content) or _body(content)):
                yield path.relative_to(egs2), content


#: One of these is in every training configuration, and in no decoding configuration.
_MODEL = {"encoder", "decoder", "lm", "lm_conf", "tts", "svs", "enh_encoder"}


def _body(content: _Config) -> Any:
    """Blocks of the encoder of a stand-alone transducer, which has no choice."""
    return (content.get("encoder_conf") or {}).get("body_conf")


#: The choices that an architecture is named after.
_NAMING = (
    *("encoder", "decoder", "lm", "tts", "svs", "enh_separator", "asr_encoder"),
    *("asr_decoder", "separator", "extractor", "diffusion_model"),
)


def architecture(task: str, content: _Config) -> tuple[str, _Config]:
    """The task and what of a training configuration is architecture, at tiny size."""
    if {"lm", "lm_conf"} & set(content):
        task = "lm"
    if content.get("model") == "espnet_ctc":
        task = "s2t_ctc"
    if _body(content):
        task = "asr_transducer"
    config: _Config = {}
    loose = {"model", *_LOOSE}  # settings of what ESPnet offers no choice of
    for choices in find_task(task, content.get("svs")).class_choices_list:
        if choices.name in NOT_ARCHITECTURE:
            continue
        if choices.name not in CHOICES.get(task, (choices.name,)):
            continue
        loose.discard(choices.name)
        name = content.get(choices.name, choices.default)
        name = None if str(name).lower() == "none" else name
        if name != choices.default or (choices.name in _NAMING and name is not None):
            config[choices.name] = name
        if name is not None:
            conf = content.get(f"{choices.name}_conf") or {}
            sizes = SIZES_OF.get(choices.name, SIZES)
            if task == "enh_diar":
                sizes = sizes | BOTTLENECK_SIZES
            if task in ENHANCEMENT and choices.name in ("encoder", "decoder"):
                sizes = SIZES_OF["enh_encoder"]
            of_enh = task in ENHANCEMENT or choices.name.startswith("enh_")
            training = ENH_TRAINING if of_enh else TRAINING
            conf = reduced(conf, _class(choices, name), sizes, training)
            if conf:
                config[f"{choices.name}_conf"] = conf
    for name in sorted(loose):
        training = ENH_TRAINING if task in ENHANCEMENT else TRAINING
        conf = reduced(content.get(f"{name}_conf") or {}, None, SIZES, training)
        if conf:
            config[f"{name}_conf"] = conf
    if content.get("input_size") not in (None, "none"):
        config["input_size"] = 1 if content["input_size"] == 1 else SIZES["n_mels"]
    if task == "enh_diar":
        config["subtask_series"] = content["subtask_series"]
        if content.get("diar_input_size") is not None:
            config["diar_input_size"] = BOTTLENECK_SIZES["bottleneck_dim"]
    for key in ("use_lora", "lora_conf", "use_adapter", "adapter", "adapter_conf"):
        if content.get(key):
            config[key] = content[key]
    return task, config


def _without_kernels(config: _Config) -> _Config:
    return {
        name: _without_kernels(value) if isinstance(value, dict) else value
        for name, value in config.items()
        if not KERNELS.search(name)
    }


def _class(choices: Any, name: str) -> type | None:
    try:
        return choices.get_class(name)
    except ValueError:  # a choice that the installed ESPnet does not have
        return None


def reduced(
    conf: Mapping[str, Any],
    cls: type | None,
    sizes: Mapping[str, Any],
    training: re.Pattern[str] = TRAINING,
) -> _Config:
    """Settings less defaults and what matters in training only, at tiny size.

    Args:
        conf: the settings.
        cls: what they are given to, if it is known.
        sizes: parameters to set, where ``cls`` or ``conf`` has them; one that says that
            there is no such part is left as it is.
        training: names of parameters that matter in training only.
    """
    parameters = inspect.signature(cls.__init__).parameters if cls else {}
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    result = {
        name: copy.deepcopy(size)  # or the list would name where it stood before
        for name, size in sizes.items()
        if size is not None
        and name in (parameters or conf)
        and not _absent({**defaults, **conf}[name])
    }
    if conf.get("interctc_layer_idx"):
        result["num_blocks"] = 2
    n_fft = conf.get("n_fft", defaults.get("n_fft", 0))
    if (conf.get("win_length") or n_fft) < n_fft:
        result["win_length"] = 50
    for name, value in conf.items():
        default = defaults.get(name, inspect.Parameter.empty)
        if name in WEIGHTS:
            value, default = _coarse(value), _coarse(default)
        if training.search(name) or value == default:
            continue
        if name in sizes and (not _absent(value) or _absent(default)):
            continue
        if name == "interctc_layer_idx":
            value = [1]
        elif value == "tvm":  # the same product, where there is no GPU
            value = "sliding_chunks"
        elif name == "ctc_asr_only":  # of intermediate CTCs, and of the last
            value = value[:1] + value[-1:]
        elif isinstance(value, list) and len(value) == conf.get("num_blocks"):
            value = value[1 : 1 + result["num_blocks"]]
        elif isinstance(value, list):
            value = [
                reduced(v, None, sizes, training) if isinstance(v, dict) else v
                for v in value
            ]
        elif isinstance(value, dict):
            value = reduced(value, _part(name, conf, cls), sizes, training)
        result[name] = value
    return result


def _absent(size: Any) -> bool:
    return size is None or isinstance(size, (int, float)) and size <= 0


def _part(name: str, conf: _Config, cls: type | None) -> type | None:
    """Callable that settings within settings are given to, if it is known."""
    part = name.removesuffix("_params")
    if part not in _PARTS or cls is None:
        return None
    choice = inspect.signature(cls.__init__).parameters[f"{part}_type"]
    classes = getattr(inspect.getmodule(cls), _PARTS[part])
    return classes.get(conf.get(choice.name, choice.default))  # none of an unknown one


def _coarse(weight: Any) -> Any:
    return weight if weight in (0.0, 1.0, inspect.Parameter.empty) else 0.3
