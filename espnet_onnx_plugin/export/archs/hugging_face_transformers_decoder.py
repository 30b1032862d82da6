"""``decoder: hugging_face_transformers``: decoders of BART and T5, language models."""

from __future__ import annotations

from typing import Any

import torch

from espnet_onnx_plugin.bundle.search import Generate
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.layers.hub_causal import CAUSAL_TYPES, CausalDecoderStep
from espnet_onnx_plugin.export.layers.hub_steps import BartDecoderStep, T5DecoderStep
from espnet_onnx_plugin.export.layers.hub_text import needs_transformers
from espnet_onnx_plugin.export.registry import Arch, register
from espnet_onnx_plugin.export.steps import StepModule

_SEQ2SEQ = {
    "bart": BartDecoderStep,
    "mbart": BartDecoderStep,
    "mt5": T5DecoderStep,
    "t5": T5DecoderStep,
}

#: What of a generation configuration the search knows, see ``runtime.search.generate``.
_KNOWN = (
    "do_sample",
    "early_stopping",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "length_penalty",
    "max_length",
    "max_new_tokens",
    "min_length",
    "no_repeat_ngram_size",
)

#: What does not change a result of greedy and beam search.
_WITHOUT_EFFECT = (
    "_from_model_config",
    "bos_token_id",
    "decoder_start_token_id",
    "eos_token_id",
    "num_beams",
    "pad_token_id",
    "temperature",
    "top_k",
    "top_p",
    "transformers_version",
    "use_cache",
)


def _wrap(decoder: torch.nn.Module) -> StepModule:
    """The step of a ``HuggingFaceTransformersDecoder``.

    Its attribute ``generate`` holds the settings of the search, by the names of
    ``bundle.search.Generate``.

    Raises:
        PluginError: for a model that is not supported.
    """
    if decoder.causal_lm:
        step = CausalDecoderStep(decoder)
        _, settings = _generating_model(decoder)
        # ESPnet's inference takes the last token of the prompt for a 1.
        step.generate = Generate(**settings, start=1, prompt=step.prompt)
        return step
    kind = decoder.decoder.config.model_type
    if kind not in _SEQ2SEQ:
        raise PluginError(
            f"decoder 'hugging_face_transformers' of model type {kind} is not "
            f"supported; supported: {', '.join(_SEQ2SEQ)}"
        )
    model, settings = _generating_model(decoder)
    # What ESPnet's inference of translation does, so that the decoder can score.
    if hasattr(model, "model"):
        model.model.decoder = decoder.decoder
        del model.model.encoder
    else:
        model.decoder = decoder.decoder
        del model.encoder
    model.lm_head = decoder.lm_head
    decoder.hf_generate = model.eval()
    step = _SEQ2SEQ[kind](decoder)
    start = model.config.decoder_start_token_id
    step.generate = Generate(**settings, start=start)
    return step


def _generating_model(
    decoder: torch.nn.Module,
) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The model that ESPnet's inference loads, and what its ``generate`` does.

    Raises:
        PluginError: naming a setting that the search does not know.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    auto = AutoModelForCausalLM if decoder.causal_lm else AutoModelForSeq2SeqLM
    model = auto.from_pretrained(
        decoder.model_name_or_path, **decoder.overriding_architecture_config
    )
    given = model.generation_config
    unknown = set(given.to_diff_dict()) - {*_KNOWN, *_WITHOUT_EFFECT}
    if unknown:
        raise PluginError(
            f"the generation configuration of {decoder.model_name_or_path} sets "
            f"{', '.join(sorted(unknown))}, which the search does not know"
        )
    settings = {name: getattr(given, name) for name in _KNOWN}
    if settings["max_length"] == type(given)().max_length:
        # The default counts new tokens.
        settings["max_length"] = None
    eos = given.eos_token_id
    eos = eos if isinstance(eos, list) else [eos]
    return model, {
        **settings,
        "positions": getattr(model.config, "max_position_embeddings", None),
        "num_beams": model.config.num_beams,
        "eos": tuple(token for token in eos if token is not None),
    }


register(
    Arch(
        role="decoder",
        name="hugging_face_transformers",
        wrap=_wrap,
        tiny={
            "bart": dict(model_name_or_path="facebook/bart-base"),
            "t5": dict(model_name_or_path="google-t5/t5-small"),
            "mt5": dict(model_name_or_path="google/mt5-small", separate_lm_head=True),
            "bloom": dict(
                model_name_or_path="bigscience/bloom-560m",
                causal_lm=True,
                prefix="a",
                postfix="bc",
            ),
            "gpt_neox": dict(
                model_name_or_path="EleutherAI/pythia-70m", causal_lm=True, prefix="ab"
            ),
            "llama": dict(model_name_or_path="huggyllama/llama-7b", causal_lm=True),
            "mistral": dict(
                model_name_or_path="mistralai/Mistral-7B-v0.3",
                causal_lm=True,
                postfix="a",
            ),
            "qwen2": dict(model_name_or_path="Qwen/Qwen2-0.5B", causal_lm=True),
        },
        limits=(
            f"model types {', '.join(_SEQ2SEQ)}, with causal_lm "
            f"{', '.join(CAUSAL_TYPES)}; decoding with hugging_face_decoder: true"
        ),
        needs=needs_transformers,
    )
)
