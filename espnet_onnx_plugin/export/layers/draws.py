"""Random numbers that ESPnet draws: the runtime has to draw the same."""

from __future__ import annotations

import struct

import numpy as np
import torch

from espnet_onnx_plugin.runtime.synthesis.torch_rng import Noise

#: Numbers of 32 bits that torch's data loader draws before it gives the first batch.
OF_LOADER = 2

_BLOCK = 624  # of MT19937

#: torch's state: the seed, how many numbers are left of a block, whether it was seeded,
#: and how many were taken of the block; then the block itself.
_HEAD = struct.Struct("<QiiQ")


def drawn_since(seed: int, most: int = 2**34) -> int:
    """How many numbers of 32 bits were drawn since ``torch.manual_seed(seed)``.

    Raises:
        ValueError: if it was another seed, or more than ``most`` were drawn.
    """
    state = torch.get_rng_state().numpy().tobytes()
    _, _, _, taken = _HEAD.unpack_from(state)
    block = np.frombuffer(state, np.uint64, _BLOCK, _HEAD.size).astype(np.uint32)
    generator = np.random.RandomState(seed)
    if np.array_equal(generator.get_state()[1], block):
        return 0  # the first block is made when the first number is drawn
    for blocks in range(most // _BLOCK):
        generator.randint(0, 2**32, size=_BLOCK, dtype=np.uint32)
        if np.array_equal(generator.get_state()[1], block):
            return blocks * _BLOCK + taken
    raise ValueError(f"torch's generator is not that of seed {seed}")


def dropouts_are_of_mkl() -> bool:
    """Whether this torch draws dropouts by MKL, see :class:`Noise`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = torch.nn.functional.dropout(torch.ones(64), 0.5).numpy()
    return not np.array_equal(drawn, Noise(0).keep(0.5, 64))


def unused_draws(module: torch.nn.Module) -> int:
    """How many numbers ESPnet draws to no effect when it runs a stack of layers.

    ``MultiSequential`` draws which layers to leave out in training, and draws always.
    """
    stacks = (m for m in module.modules() if type(m).__name__ == "MultiSequential")
    return sum(map(len, stacks))
