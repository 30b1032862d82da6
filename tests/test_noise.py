"""Draws in numpy against torch's."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from espnet_onnx_plugin.runtime.synthesis.torch_rng import Noise

SEEDS = (0, 777, -1, 2**40 + 9)
# To units in the last place, of values up to 6.
TOLERANCE = 1e-6


def on_intel():
    """Whether a dropout takes one draw of torch's generator, whatever its size."""
    torch.manual_seed(0)
    torch.empty(99).bernoulli_(0.5)
    after_dropout = torch.rand(1)
    torch.manual_seed(0)
    return torch.equal(after_dropout, torch.rand(2)[1:])


def dropout_elsewhere(rate, *shape):
    """Torch's dropout on other processors than Intel's, drawn on any."""
    kept = torch.empty(shape).bernoulli_(torch.tensor(1 - rate, dtype=torch.float64))
    return kept / (1 - rate)


def assert_normal(ours, torchs):
    assert ours.dtype == np.float32 and ours.shape == tuple(torchs.shape)
    np.testing.assert_allclose(ours, torchs.numpy(), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "shape",
    [(), (0,), (1,), (3, 5), (16,), (17,), (31,), (4, 12), (1, 2, 57), (1, 192, 1000)],
)
def test_normal(seed, shape):
    torch.manual_seed(seed)
    noise = Noise(seed)
    for _ in range(2):
        assert_normal(noise.normal(*shape), torch.randn(shape))


def test_normal_of_a_tensor_that_is_not_contiguous():
    torch.manual_seed(777)
    noise = Noise(777)
    like = torch.empty(1, 9, 21).transpose(1, 2)
    for _ in range(2):
        ours = noise.normal(1, 9, 21, blocked=False).swapaxes(1, 2)
        assert_normal(ours, torch.randn_like(like))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.15, 0.5, 0.9])
def test_keep(seed, rate):
    torch.manual_seed(seed)
    noise = Noise(seed)
    for shape in ((256,), (3, 5), (400, 256)):
        ours = noise.keep(rate, *shape)
        assert ours.dtype == np.float32
        if rate == 0:  # no draw is taken
            assert (ours == 1).all()
        else:
            assert np.array_equal(ours, dropout_elsewhere(rate, *shape).numpy())


def test_one_after_the_other():
    """The second of a pair of normal draws waits, whatever is drawn in between."""
    torch.manual_seed(777)
    noise = Noise(777)
    for size in (1, 20, 3, 2, 64, 15, 33):
        assert_normal(noise.normal(size), torch.randn(size))
        ours, torchs = noise.keep(0.5, 2, size), dropout_elsewhere(0.5, 2, size)
        assert np.array_equal(ours, torchs.numpy())


def test_dropout_of_this_processor():
    noise = Noise(777, mkl=on_intel())
    torch.manual_seed(777)
    for size in (256, 2, 10000):
        ours = noise.keep(0.3, size)
        assert np.array_equal(ours, F.dropout(torch.ones(size), 0.3).numpy())


@pytest.mark.parametrize(
    "seed, first, second",
    [
        (0, "10011001111001110100", "1110111000011111011000111100110111011010"),
        (777, "10011011001111100111", "1010111010110001111011011110111101101111"),
    ],
)
def test_dropout_of_intels_processors(seed, first, second):
    """viRngBernoulli of MKL 2024.2, which torch 2.11 holds, seeded by two draws."""
    noise = Noise(seed, mkl=True)
    for kept, rate in ((first, 0.5), (second, 0.3)):
        expected = np.array(list(map(int, kept)), np.float32) / np.float32(1 - rate)
        assert np.array_equal(noise.keep(rate, len(kept)), expected)


@pytest.mark.parametrize("mkl", [False, True])
def test_statistics(mkl):
    noise = Noise(1, mkl)
    for blocked in (True, False):
        values = noise.normal(200, 1000, blocked=blocked)
        assert abs(values.mean()) < 0.01 and abs(values.std() - 1) < 0.01
    kept = noise.keep(0.3, 200, 1000)
    assert abs((kept == 0).mean() - 0.3) < 0.01 and abs(kept.mean() - 1) < 0.01
