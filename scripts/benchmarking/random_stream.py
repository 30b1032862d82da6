"""Weights of models for streams, of which random ones never end a block."""

from __future__ import annotations

import torch
from benchmarking.random_transducer import DEVIATION, encode_noise, standardize

#: Mean number of encoder frames for a token: of 32 ms, some four tokens in a second, as
#: parts of a stream, each normalized by itself, make more of them.
FRAMES_PER_TOKEN = 12

#: How many tokens are ever said. They are fewer than those of a hypothesis that get a
#: CTC score (15 with a beam of 10), as CTC and decoder of random weights would not
#: agree on which these are.
FREQUENT = 12

#: How much likelier they are for the decoder, logarithmically.
LEAD = 8.0


@torch.no_grad()
def give_words(model: torch.nn.Module) -> None:
    """Change CTC and decoder so that noise makes a token now and then, then an end.

    Args:
        model: ESPnet's model, whose encoder is left as it is.
    """
    model.eval()
    frames, ctc = encode_noise(model), model.ctc.ctc_lo
    standardize(ctc, frames, 1.0)
    first = model.blank_id + 2  # behind <unk>
    tokens = torch.arange(first, min(first + FREQUENT, model.eos))
    ctc.weight[tokens] *= DEVIATION
    ctc.bias[tokens] *= DEVIATION
    scores = ctc(frames)[0]
    lead = scores[:, tokens].max(dim=-1).values - scores[:, model.blank_id]
    ctc.bias[model.blank_id] += lead.quantile(1 - 1 / FRAMES_PER_TOKEN)
    bias = model.decoder.output_layer.bias
    bias[tokens] += LEAD
    bias[model.eos] += LEAD
