"""Weights of transducers, of which random ones give a label at every frame or none."""

from __future__ import annotations

import torch

#: Mean number of encoder frames for a label, about that of English in BPE.
FRAMES_PER_LABEL = 5

#: Standard deviation of the scores before the softmax. The best of some thousand labels
#: then has most of the probability, as in a trained model; with less the searches would
#: meet hypotheses that are all alike.
DEVIATION = 10.0

#: Length of the noise whose scores the weights are scaled to: 8 s at 16 kHz.
SAMPLES = 128000


@torch.no_grad()
def give_labels(model: torch.nn.Module) -> None:
    """Change the joint network so that noise makes a label now and then.

    Args:
        model: ESPnet's model, whose encoder is left as it is.
    """
    model.eval()
    joint, blank = model.joint_network, model.decoder.blank_id
    labels = joint.lin_out.out_features
    frames = encode_noise(model)
    history = torch.randint(1, labels - 1, (1, frames.size(1)))
    predicted, _ = model.decoder.rnn_forward(
        model.decoder.embed(history), model.decoder.init_state(1)
    )
    standardize(joint.lin_enc, frames, 1.0)
    # What is heard decides, or a label that is rarely left would end the talk.
    standardize(joint.lin_dec, predicted, 0.3)
    joined = joint.joint_activation(joint.lin_enc(frames) + joint.lin_dec(predicted))
    standardize(joint.lin_out, joined, DEVIATION)
    scores = joint.lin_out(joined)[0]
    others = scores.clone()
    others[:, blank] = -torch.inf
    lead = others.max(dim=-1).values - scores[:, blank]
    joint.lin_out.bias[blank] += lead.quantile(1 - 1 / FRAMES_PER_LABEL)


def encode_noise(model: torch.nn.Module) -> torch.Tensor:
    """Return the encoder's output (1, frames, size) for noise."""
    noise = 0.1 * torch.randn(1, SAMPLES)
    frames, _ = model.encode(noise, torch.tensor([noise.size(1)]))
    return frames


def standardize(layer: torch.nn.Linear, x: torch.Tensor, deviation: float) -> None:
    """Scale a layer so that its outputs for these inputs vary by so much."""
    y = layer(x).flatten(0, -2)
    scale = deviation / y.std(dim=0).clamp(min=1e-3)
    layer.weight.mul_(scale[:, None])
    if layer.bias is not None:
        layer.bias.copy_((layer.bias - y.mean(dim=0)) * scale)
