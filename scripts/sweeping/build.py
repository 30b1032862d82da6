"""Building an architecture of the list with the installed ESPnet, weights random."""

import argparse
import importlib
from typing import Any, Dict, Optional
from unittest import mock

#: ESPnet's task by what the list calls it: module of espnet2.tasks, class.
_TASK_CLASSES = {
    "asr": "ASRTask",
    "st": "STTask",
    "slu": "SLUTask",
    "s2t": "S2TTask",
    "s2t_ctc": "S2TTask",
    "lm": "LMTask",
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
        *("<blank>", "<unk>", "<na>", "<nolang>", "<eng>", "<asr>", "<st_deu>"),
        *("<notimestamps>", "<0.00>", "<0.02>", "<0.04>", "<30.00>"),
        *_LETTERS,
        *("<sop>", "<sos>", "<eos>"),
    ],
}
TOKENS["s2t_ctc"] = TOKENS["s2t"]


def find_task(task: str) -> type:
    """ESPnet's class of a task."""
    module = importlib.import_module(f"espnet2.tasks.{task}")
    return getattr(module, _TASK_CLASSES[task])


def training_config(architecture: Dict[str, Any]) -> Dict[str, Any]:
    """What ESPnet would write as ``config.yaml`` for an entry of the list."""
    task, config = architecture["task"], architecture["config"]
    tokens = TOKENS.get(task, TOKENS["default"])
    cls = find_task(task)
    full = {**cls.get_default_config(), "init": None, "specaug": None}
    # ESPnet's defaults of a choice's settings are those of its default choice.
    full.update({f"{choices.name}_conf": {} for choices in cls.class_choices_list})
    full.update(config, token_list=tokens, token_type="char")
    if task == "st":
        full.update(src_token_list=tokens, src_token_type="char")
    if config.get("deliberationencoder"):
        full.update(transcript_token_list=tokens)
    return full


def build(architecture: Dict[str, Any], seed: int = 0):
    """ESPnet's model, in eval mode."""
    import torch

    torch.manual_seed(seed)
    args = argparse.Namespace(**training_config(architecture))
    return find_task(architecture["task"]).build_model(args).eval()


def why_not_built(architecture: Dict[str, Any]) -> Optional[str]:
    """What keeps ESPnet from building this without a network; None if nothing does."""
    if architecture["config"].get("decoder") == "transducer":
        return "transducer"

    def refuse(*_, **__):
        raise OSError("no network")

    with mock.patch("socket.socket.connect", refuse):
        try:
            build(architecture)
        except ImportError as e:
            return f"package: {e.name or ' '.join(str(e).split())[:60]}"
        except OSError as e:
            return f"weights: {e.filename or ' '.join(str(e).split())[:60]}"
        except (Exception, SystemExit) as e:
            return f"ESPnet: {' '.join(str(e).split())[:90]}"
    return None
