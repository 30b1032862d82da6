"""The task of ``s2t.sh``: Whisper-style speech to text (OWSM)."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import torch

from espnet_onnx_plugin.bundle.search import Prompted
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.tasks.recognition import RecognitionExporter

#: Symbols of ``preprocessor_conf`` that the search needs, by their name in a manifest.
_TIMES = {
    "notime": "notime_symbol",
    "first_time": "first_time_symbol",
    "last_time": "last_time_symbol",
}


def preprocessing(args: argparse.Namespace) -> dict[str, Any]:
    """``preprocessor_conf`` with the defaults of ESPnet's class.

    Args:
        args: the training arguments.
    """
    from espnet2.tasks.s2t_ctc import preprocessor_choices
    from espnet2.utils.get_default_kwargs import get_default_kwargs

    name = getattr(args, "preprocessor", None) or "s2t"
    defaults = get_default_kwargs(preprocessor_choices.get_class(name))
    return {**defaults, **(getattr(args, "preprocessor_conf", None) or {})}


def segment(conf: Mapping[str, Any]) -> dict[str, Any]:
    """ESPnet's cut of speech: the length in seconds that all input is brought to.

    Args:
        conf: what :func:`preprocessing` gives.
    """
    return dict(fs=int(conf["fs"]), speech_length=conf["speech_length"])


def special_tokens(model: torch.nn.Module) -> dict[str, int]:
    """Ids of the model's symbols."""
    return dict(
        sos=model.sos, eos=model.eos, sop=model.sop, na=model.na, blank=model.blank_id
    )


class S2TExporter(RecognitionExporter):
    """An ``ESPnetS2TModel``."""

    espnet_task = ("espnet2.tasks.s2t", "S2TTask")

    @property
    def search(self) -> Prompted:
        """Settings of the search, with symbols of the prompt and of times."""
        conf = preprocessing(self.args)
        tokens = list(self.model.token_list)
        times = {}
        for name, option in _TIMES.items():
            if conf[option] not in tokens:
                raise PluginError(
                    f"preprocessor_conf: {option} '{conf[option]}' is not in the token "
                    "list; ESPnet's s2t_inference needs it too"
                )
            times[name] = tokens.index(conf[option])
        return Prompted(
            **{**vars(super().search), **special_tokens(self.model)},
            **times,
            **segment(conf),
            speech_resolution=conf["speech_resolution"],
        )
