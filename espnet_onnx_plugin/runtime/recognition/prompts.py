"""Prompts: what hypotheses begin with, or the encoder reads, besides the speech."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from espnet_onnx_plugin.bundle.search import Prompted, PromptedCTC
from espnet_onnx_plugin.runtime.text.converter import TokenConverter
from espnet_onnx_plugin.runtime.text.hub_text import HubTokenizer

#: Text before an utterance, or its token ids.
TextPrev = str | Sequence[int] | np.ndarray

#: Inputs of an encoder besides speech, by name.
Prompt = Mapping[str, np.ndarray]


def whisper_primer(
    primer: Sequence[int],
    tokenizer: HubTokenizer,
    lang_prompt: str | None,
    nlp_prompt: str | None,
    lid_prompt: bool,
) -> list[int]:
    """Tokens that hypotheses of a model of Whisper's tokens begin with.

    Args:
        primer: of the model: start, language, task and <notimestamps>.
        tokenizer: of the model.
        lang_prompt: tokens in the place of language and task.
        nlp_prompt: text in the place of the task.
        lid_prompt: whether the start symbol stands alone.
    """
    if lang_prompt is not None:
        prompt = lang_prompt.split()
        return [primer[0], *tokenizer.tokens2ids(prompt), *primer[3:]]
    if nlp_prompt is not None:
        prompt = tokenizer.text2tokens(nlp_prompt)
        return [*primer[:2], *tokenizer.tokens2ids(prompt), *primer[3:]]
    return list(primer[:1] if lid_prompt else primer)


def _previous(text_prev: TextPrev, converter: TokenConverter) -> list[int]:
    """Ids of previous text."""
    if isinstance(text_prev, str):
        return converter.text2ids(text_prev)
    return [int(i) for i in text_prev]


def owsm_primer(
    search: Prompted,
    converter: TokenConverter,
    text_prev: TextPrev | None,
    symbols: Sequence[str],
    predict_time: bool,
) -> list[int]:
    """Tokens that hypotheses of OWSM's models with a decoder begin with.

    Args:
        search: the manifest's description.
        converter: of the model.
        text_prev: text before the utterance; None: there is none.
        symbols: of language and task.
        predict_time: whether timestamps are predicted.
    """
    primer = [search.sos, *map(converter.token2id, symbols)]
    if not predict_time:
        primer.append(search.notime)
    if text_prev is None:
        return primer
    previous = _previous(text_prev, converter)
    if search.na in previous:
        return primer
    return [search.sop, *previous, *primer]


def owsm_ctc_prompt(
    search: PromptedCTC,
    converter: TokenConverter,
    text_prev: TextPrev | None,
    symbols: Sequence[str],
) -> Prompt:
    """Inputs of the encoder of OWSM's models that are all CTC, see
    :func:`owsm_primer`.
    """
    prefix = [converter.token2id(symbol) for symbol in symbols]
    ids = _previous("<na>" if text_prev is None else text_prev, converter)
    ids = [search.na] if search.na in ids else ids
    return dict(text_prev=np.array(ids, np.int64), prefix=np.array(prefix))
