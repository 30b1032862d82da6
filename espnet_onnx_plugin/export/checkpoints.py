"""Loading what training wrote."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import yaml

from espnet_onnx_plugin.bundle.typed import check_keys
from espnet_onnx_plugin.bundle.yaml_file import read_yaml
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.checkpoint_file import weights_only
from espnet_onnx_plugin.export.weights import load_weights
from espnet_onnx_plugin.files import temporary_directory
from espnet_onnx_plugin.packages import import_package
from espnet_onnx_plugin.runtime.search.ngram_scorer import NgramScorer


@dataclass(frozen=True)
class Checkpoints:
    """The files that a model consists of.

    Raises:
        PluginError: if one is missing.
    """

    train_config: Path
    model_file: Path
    lm_train_config: Path | None = None
    lm_file: Path | None = None
    ngram_file: Path | None = None
    src_lm_train_config: Path | None = None
    src_lm_file: Path | None = None
    src_ngram_file: Path | None = None
    vocoder_config: Path | None = None
    vocoder_file: Path | None = None
    inference_enh_config: Path | None = None

    def __post_init__(self) -> None:
        for name, path in self.files().items():
            if not path.is_file():
                raise PluginError(
                    f"--{name} {path} does not exist; train the model first, or check "
                    "the path"
                )
        for lm in ("lm", "src_lm"):
            config, file = f"{lm}_train_config", f"{lm}_file"
            if (getattr(self, config) is None) != (getattr(self, file) is None):
                raise PluginError(f"--{config} and --{file} go together")

    def files(self) -> dict[str, Path]:
        """The files that are given, by the option that names them."""
        return {name: path for name, path in vars(self).items() if path is not None}


def read_config(path: Path) -> dict[str, Any]:
    """Read a training configuration.

    Raises:
        PluginError: if it is not one.
    """
    config = read_yaml(path)
    if not isinstance(config, dict):
        raise PluginError(f"{path} is not a training configuration of ESPnet")
    return config


@contextlib.contextmanager
def overwritten(
    config: Path, other: Path | None, parts: Sequence[str]
) -> Iterator[Path]:
    """A training configuration with settings of an inference configuration.

    Args:
        config: of training.
        other: of inference, or None.
        parts: keys of the training configuration that it may have, and each with
            ``_conf`` behind.

    Yields:
        ``config``, or the path of a temporary file.

    Raises:
        PluginError: if it has other keys.
    """
    if other is None:
        yield config
        return
    settings, changes = read_config(config), read_config(other)
    known = [key for part in parts for key in (part, f"{part}_conf")]
    check_keys(changes, known, str(other))
    with temporary_directory() as work:
        path = work / config.name
        merged = yaml.safe_dump(_updated(settings, changes))
        path.write_text(merged, encoding="utf-8")
        yield path


def _updated(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """As ``recursive_dict_update`` of ``espnet2.bin.enh_inference``."""
    made = dict(settings)
    for key, value in changes.items():
        old = made.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        made[key] = _updated(old, value) if both else value
    return made


def refuse_ngram(path: Path) -> None:
    """Open an n-gram model, where kenlm is installed.

    Raises:
        PluginError: if it is empty, or kenlm cannot read it.
    """
    if path.stat().st_size == 0:
        raise PluginError(f"{path} is empty; build the n-gram model again")
    if importlib.util.find_spec("kenlm") is not None:
        NgramScorer(str(path), [])


@contextlib.contextmanager
def losses_left_out() -> Iterator[None]:
    """Build models without the packages that only their losses need.

    ESPnet imports k2 for ``ctc_type: brctc`` when it builds the model, and makes the
    loss of a transducer of warprnnt_pytorch then.
    """
    packages = ("k2", "_k2", "warprnnt_pytorch")
    missing = [
        name
        for name in packages
        if name not in sys.modules and importlib.util.find_spec(name) is None
    ]
    sys.modules.update({name: ModuleType(name) for name in missing})
    if "warprnnt_pytorch" in missing:
        loss = {"RNNTLoss": lambda **_: torch.nn.Identity()}
        vars(sys.modules["warprnnt_pytorch"]).update(loss)
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]
        if missing:
            sys.modules.pop("espnet2.asr.bayes_risk_ctc", None)


def build(
    task: type, config: Path, checkpoint: Path
) -> tuple[torch.nn.Module, argparse.Namespace]:
    """Build a model of an ESPnet task and load its weights.

    Returns:
        The model in eval mode, and the training arguments.

    Raises:
        PluginError: if the configuration or the checkpoint cannot be used.
    """
    settings = read_config(config)
    if settings.get("use_adapter") and settings.get("adapter", "lora") == "lora":
        import_package("loralib", f"the adapter of {config}", "loralib")
    model, args = _build(task, config)
    load_weights(
        model, checkpoint, config, settings, again=lambda: _build(task, config)[0]
    )
    return model.eval(), args


def _build(task: type, config: Path) -> tuple[torch.nn.Module, argparse.Namespace]:
    """Build a model with the weights that ESPnet begins with."""
    with temporary_directory() as work:
        # ESPnet initializes a model in another way where it has no checkpoint to load.
        empty = work / "empty.pth"
        torch.save({}, empty)
        try:
            with losses_left_out(), weights_only():
                return task.build_model_from_file(str(config), str(empty), "cpu")
        except PluginError:
            raise
        except FileNotFoundError as e:
            raise PluginError(
                f"{config} names {e.filename}, which does not exist; run this in the "
                "recipe's directory"
            )
        except Exception as e:  # whatever the modules that a configuration names raise
            reason = " ".join(str(e).split())[:300] or type(e).__name__
            raise PluginError(f"ESPnet cannot build the model of {config}: {reason}")
