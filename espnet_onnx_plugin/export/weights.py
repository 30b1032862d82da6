"""Weights of a checkpoint in a model: whether they are the model's.

ESPnet loads with ``strict=False``: it decodes with whatever a checkpoint lacks as it
was drawn. Here a model's weights are all in its checkpoint, or it is refused by name.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.checkpoint_file import (
    Weights,
    counted,
    read_weights,
    weights_below,
)

logger = logging.getLogger(__name__)

#: Modules that only training runs, as the last parts of their names.
_TRAINING_ONLY = re.compile(r"(^|\.)(discriminator|criterion\w*|\w+_loss)\.")

#: Buffers that training changes, which begin alike in every build.
_STATISTICS = (".running_mean", ".running_var")

#: Buffers that count training's steps.
_COUNTERS = re.compile(r"(^|\.)(num_batches_tracked|num_updates|global_step)$")


def load_weights(
    model: torch.nn.Module,
    path: Path,
    config: Path,
    settings: Mapping[str, Any],
    again: Callable[[], torch.nn.Module],
) -> None:
    """Load a checkpoint into a model, which has every weight from a file afterwards.

    A weight may be missing where it is not training's: the parts that only training
    runs, what training left as it was (frozen parameters, constant buffers) if the
    configuration gives it, by ``init_param`` or by the weights that a part is built
    with. Too many may be those of parts that ESPnet builds no more.

    Args:
        model: as ESPnet builds it.
        path: the checkpoint.
        config: the training configuration, for messages.
        settings: its content.
        again: builds the model once more.

    Raises:
        PluginError: naming what is missing, too much, of another shape or no number.
    """
    weights = _renamed(read_weights(path), model)
    missing, unexpected = _load(model, weights, path, config)
    lost = [name for name in missing if not _dispensable(name)]
    kept = _untrained(model, settings)
    faults = [name for name in lost if name not in kept]
    if lost and not faults:
        given = _load_init_params(model, config, settings)
        _load(model, weights, path, config)
        rest = [name for name in lost if name not in given]
        faults = _drawn(rest, model, again) if rest else []
    surplus = [name for name in unexpected if not _superfluous(name, model)]
    if faults or surplus:
        parts = []
        if faults:
            total = len(model.state_dict())
            parts.append(f"of {total} weights it lacks {counted(faults)}")
        if surplus:
            parts.append(f"it has {counted(surplus)} that the model has not")
        remedy = (
            "give the config.yaml that training wrote beside it, and use the release "
            "of ESPnet that trained it"
        )
        if faults and settings.get("use_adapter"):
            remedy = (
                "of an adapter alone, name in init_param the model that it adapts, or "
                "train with save_strategy: all"
            )
        raise PluginError(
            f"{path} does not fit {config}: {', and '.join(parts)}; {remedy}"
        )
    _merge_adapters(model, missing)
    refuse_no_numbers(model, path)


def _renamed(weights: Weights, model: torch.nn.Module) -> Weights:
    """Weights of s3prl's models by the names they have now.

    ESPnet renames them as well, though only where loading fails otherwise.
    """
    old, new = "frontend.upstream.model.", "frontend.upstream.upstream.model."
    names = model.state_dict()
    if not any(k.startswith(new) for k in names) or any(
        k.startswith(old) for k in names
    ):
        return weights
    for name in [k for k in weights if k.startswith(old)]:
        weights[new + name[len(old) :]] = weights.pop(name)
    return weights


def _load(
    model: torch.nn.Module, weights: Weights, path: Path, config: Path
) -> tuple[list[str], list[str]]:
    """Load what there is, by way of the modules' own renaming.

    Returns:
        Names that are missing, and names that the model has not.
    """
    try:
        report = model.load_state_dict(weights, strict=False)
    except RuntimeError as e:
        shapes = re.findall(
            r"size mismatch for (\S+): .*?shape torch.Size\((.*?)\) from .*?, the "
            r"shape in current model is torch.Size\((.*?)\)\.",
            str(e),
        )
        reason = " ".join(str(e).split())[:300]
        if shapes:
            wrong = [f"{n} is {file}, not {ours}" for n, file, ours in shapes]
            reason = f"size mismatch of {counted(wrong)}"
        raise PluginError(
            f"{path} does not fit {config}: {reason}; give the config.yaml that "
            "training wrote beside it"
        )
    return report.missing_keys, report.unexpected_keys


def _load_init_params(
    model: torch.nn.Module, config: Path, settings: Mapping[str, Any]
) -> set[str]:
    """Load the files that training began with.

    Each is ``FILE:FROM:TO:WITHOUT``, as ESPnet's ``load_pretrained_model`` has it.

    Returns:
        Names of the model's weights that they hold.
    """
    found: set[str] = set()
    for init in settings.get("init_param") or []:
        file, source, target, without = (str(init).split(":") + [""] * 3)[:4]
        if not Path(file).is_file():
            logger.warning("%s of init_param in %s does not exist", file, config)
            continue
        weights = read_weights(Path(file))
        excluded = tuple(filter(None, without.split(",")))
        if excluded:
            weights = {k: v for k, v in weights.items() if not k.startswith(excluded)}
        if source:
            weights = weights_below(f"{source}.", weights)
        try:
            part = model.get_submodule(target)
        except AttributeError:
            raise PluginError(f"init_param {init} in {config}: no part '{target}'")
        if settings.get("ignore_init_mismatch"):
            ours = part.state_dict()
            weights = {
                k: v
                for k, v in weights.items()
                if k in ours and v.shape == ours[k].shape
            }
        missing, _ = _load(part, weights, Path(file), config)
        prefix = f"{target}." if target else ""
        found |= {prefix + k for k in part.state_dict() if k not in missing}
    return found


def _drawn(
    names: Sequence[str], model: torch.nn.Module, again: Callable[[], torch.nn.Module]
) -> list[str]:
    """Weights of a model that no file has given: a second build draws others.

    A part of a hub has the hub's weights as soon as it is built.
    """
    with torch.random.fork_rng(devices=[]):
        torch.seed()
        other = again().state_dict()
    built = model.state_dict()
    return [
        name
        for name in names
        if name.endswith(_STATISTICS) or not torch.equal(built[name], other[name])
    ]


def _dispensable(name: str) -> bool:
    """Whether inference does without a weight of the model."""
    return bool(_TRAINING_ONLY.search(name) or _COUNTERS.search(name))


def _untrained(model: torch.nn.Module, settings: Mapping[str, Any]) -> set[str]:
    """Names of what training leaves as it was, or says it does by what it saves.

    These are frozen parameters, and buffers but for running statistics; of adapters
    that are saved alone, everything else.
    """
    frozen = tuple(settings.get("freeze_param") or [])
    below = tuple(f"{name}." for name in frozen)
    alone = settings.get("save_strategy") == "adapter_only"
    names = {
        name
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if alone
        or not parameter.requires_grad
        or name in frozen
        or name.startswith(below)
    }
    names |= {
        name
        for name, _ in model.named_buffers(remove_duplicate=False)
        if alone or not name.endswith(_STATISTICS)
    }
    if settings.get("use_adapter"):  # made after parameters are frozen
        mark = ".lora_" if settings.get("adapter") == "lora" else "adapter"
        names = {name for name in names if mark not in name}
    return names


def _superfluous(name: str, model: torch.nn.Module) -> bool:
    """Whether a weight that the model has not is one that inference never had.

    ESPnet once kept a decoder that is all CTC never uses, and the CTC of a model that
    has no weight for one; modules once saved buffers that they make anew.
    """
    if _TRAINING_ONLY.search(name) or _COUNTERS.search(name):
        return True
    weight = getattr(model, "ctc_weight", None)
    for part, unused_at in (("decoder", 1.0), ("ctc", 0.0)):
        if name.startswith(f"{part}."):
            if weight == unused_at and getattr(model, part, None) is None:
                return True
    if any(name == buffer for buffer, _ in model.named_buffers()):
        return True  # no longer saved
    for prefix, module in model.named_modules():  # of Hugging Face's
        ignored = getattr(module, "_keys_to_ignore_on_load_unexpected", None) or []
        if ignored and name.startswith(f"{prefix}."):
            if any(re.search(pattern, name[len(prefix) + 1 :]) for pattern in ignored):
                return True
    return False


def _merge_adapters(model: torch.nn.Module, missing: Sequence[str]) -> None:
    """Add low-rank adapters to the weights that did not come with them.

    loralib adds them when a module changes to eval mode, which ESPnet does before it
    loads. A checkpoint that holds the weights as well was written in eval mode.
    """
    for name, module in model.named_modules():
        if hasattr(module, "lora_A") and f"{name}.weight" in missing:
            module.merged = False
    model.eval()


def refuse_no_numbers(model: torch.nn.Module, path: Path) -> None:
    """Look for NaN and infinity in what a model loaded.

    Raises:
        PluginError: naming the weights.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    bad = []
    for name, value in model.state_dict().items():
        if not (value.is_floating_point() or value.is_complex()):
            continue
        wrong = ~torch.isfinite(value)
        if name not in parameters:
            wrong &= value != -float("inf")  # masks are made of it
        if wrong.any() and not _dispensable(name):
            bad.append(name)
    if bad:
        raise PluginError(
            f"{path} holds NaN or infinity in {counted(bad)}: training diverged; take "
            "an earlier epoch's checkpoint"
        )
