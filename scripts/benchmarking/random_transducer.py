"""Weights of transducers, of which random ones give a label at every frame or none."""

from __future__ import annotations

import numpy as np
import torch

#: Mean number of encoder frames for a label, about that of English in BPE.
FRAMES_PER_LABEL = 5

#: Standard deviation of the scores before the softmax. The best of some thousand labels
#: then has most of the probability, as in a trained model; with less the searches would
#: meet hypotheses that are all alike.
DEVIATION = 10.0

#: How far a label's score is above the blank's in its frame, and below it once it has
#: been given. Without the second a search that takes any number of labels in a frame
#: would never leave some frames.
LEAD = 4.0

#: Length of the noise whose scores the weights are made for: 10 s at 16 kHz.
SAMPLES = 160000


@torch.no_grad()
def give_labels(model: torch.nn.Module) -> None:
    """Change the joint network so that some noise makes a label now and then.

    The noise is the one that settings of this length decode. Its labels are learned by
    heart, by least squares: what random weights make of noise either has no label, or
    one frame gives label after label.

    Args:
        model: ESPnet's model, whose encoder is left as it is.
    """
    model.eval()
    joint, blank = model.joint_network, model.decoder.blank_id
    out, labels = joint.lin_out, joint.lin_out.out_features
    frames = encode_noise(model)[0]
    given = torch.arange(0, len(frames), FRAMES_PER_LABEL)
    ids = 2 + torch.randperm(labels - 3)[: len(given)]  # behind <blank> and <unk>
    # The joint space holds a direction for each label, along which its frame lies, and
    # what the prediction network says of the newest label, of which the label's own
    # score falls.
    torch.nn.init.normal_(out.weight, std=DEVIATION / out.in_features**0.5)
    targets = torch.zeros(len(frames), out.in_features)
    targets[given] = LEAD * torch.nn.functional.normalize(out.weight[ids])
    _solve(joint.lin_enc, frames, targets)
    said = torch.arange(labels)[:, None]
    predicted, _ = model.decoder.rnn_forward(
        model.decoder.embed(said), model.decoder.init_state(labels)
    )
    standardize(joint.lin_dec, predicted, 0.3)
    last = joint.joint_activation(joint.lin_dec(predicted[:, 0]))
    out.weight -= 2 * LEAD * last / last.square().sum(dim=1, keepdim=True)
    before = joint.joint_activation(joint.lin_enc(frames[given[1:]]) + last[ids[:-1]])
    scores = (out.weight[ids[1:]] * before).sum(dim=1)
    torch.nn.init.zeros_(out.bias)
    out.weight[blank] = 0.0
    out.bias[blank] = scores.median() - LEAD


def _solve(layer: torch.nn.Linear, x: torch.Tensor, y: torch.Tensor) -> None:
    """Make a layer give these outputs (rows, out) for these inputs (rows, in)."""
    with_bias = torch.cat((x, torch.ones(len(x), 1)), dim=1)
    found = torch.linalg.lstsq(with_bias, y, driver="gelsd", rcond=1e-4).solution
    layer.weight.copy_(found[:-1].T)
    if layer.bias is not None:
        layer.bias.copy_(found[-1])


def encode_noise(model: torch.nn.Module) -> torch.Tensor:
    """Return the encoder's output (1, frames, size) for the noise of settings."""
    noise = 0.1 * np.random.default_rng(0).standard_normal((1, SAMPLES))
    speech = torch.from_numpy(noise.astype(np.float32))
    frames, _ = model.encode(speech, torch.tensor([SAMPLES]))
    return frames


def standardize(layer: torch.nn.Linear, x: torch.Tensor, deviation: float) -> None:
    """Scale a layer so that its outputs for these inputs vary by so much."""
    y = layer(x).flatten(0, -2)
    scale = deviation / y.std(dim=0).clamp(min=1e-3)
    layer.weight.mul_(scale[:, None])
    if layer.bias is not None:
        layer.bias.copy_((layer.bias - y.mean(dim=0)) * scale)
