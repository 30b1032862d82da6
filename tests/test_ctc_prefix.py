"""CTC prefix scores against ESPnet's own."""

import tracemalloc

import numpy as np
import pytest
import torch

from espnet_onnx_plugin.export.espnet_compat import import_nets
from espnet_onnx_plugin.runtime.search import ctc_prefix
from espnet_onnx_plugin.runtime.search.ctc_prefix import CTCPrefixScorer

BLANK = 0


def log_probs(frames, vocabulary, sharpness, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(frames, vocabulary, generator=generator)
    logits[:, BLANK] += sharpness
    return torch.log_softmax(logits, dim=-1)


@pytest.mark.parametrize("candidates", [None, 6])
@pytest.mark.parametrize("sharpness", [1.0, 8.0, 100.0])
@pytest.mark.parametrize("frames", [3, 40, 150])
def test_scores_follow_espnet_along_random_prefixes(frames, sharpness, candidates):
    module = import_nets("ctc_prefix_score")
    vocabulary, eos, beam = 20, 19, 5
    random = np.random.default_rng(frames)
    logp = log_probs(frames, vocabulary, sharpness, seed=frames)
    theirs = module.CTCPrefixScoreTH(
        logp[None].double(), torch.tensor([frames]), BLANK, eos
    )
    ours = CTCPrefixScorer(logp.numpy().astype(np.float64), BLANK, eos)
    state, their_state = ours.start(), None
    prefixes = torch.full((1, 1), eos)
    for _ in range(min(8, frames)):
        ids = None
        if candidates is not None:
            ids = np.stack(
                [
                    random.permutation(np.arange(1, eos))[:candidates]
                    for _ in range(len(prefixes))
                ]
            )
        psi = ours.score(state, None if ids is None else np.insert(ids, 0, eos, axis=1))
        expected, their_new = theirs(
            prefixes, their_state, None if ids is None else torch.from_numpy(ids)
        )
        expected = expected.numpy()
        if ids is not None:
            expected = np.take_along_axis(expected, np.insert(ids, 0, eos, axis=1), 1)
        local = psi - state.score[:, None]
        np.testing.assert_allclose(local, expected, rtol=1e-6, atol=1e-4)
        parents = random.integers(0, len(prefixes), beam)
        tokens = np.array(
            [random.integers(1, eos) if ids is None else ids[p, 0] for p in parents]
        )
        # Repeats are the special case of the recursion: make one.
        last = prefixes[parents[0], -1].item()
        if ids is None and last != eos:
            tokens[0] = last
        columns = tokens if ids is None else np.ones_like(tokens)
        state = ours.extend(state, parents, tokens, psi[parents, columns])
        flat = torch.from_numpy(parents * vocabulary + tokens)[None]
        r, s, f_min, f_max = select(theirs, their_new, flat, parents, tokens)
        their_state = (r, s, f_min, f_max)
        prefixes = torch.cat(
            (prefixes[parents], torch.from_numpy(tokens)[:, None]), dim=1
        )


def select(scorer, state, flat, parents, tokens):
    """The states of the chosen continuations, as ESPnet's scorer picks them."""
    r, log_psi, f_min, f_max, idmap = state
    columns = tokens if idmap is None else idmap[parents, tokens].numpy()
    chosen = torch.stack([r[:, :, p, c] for p, c in zip(parents, columns)], dim=2)
    scores = torch.stack([log_psi[p, t] for p, t in zip(parents, tokens)])
    return chosen, scores[:, None].expand(-1, log_psi.size(1)), f_min, f_max


def test_a_vanishing_product_is_worked_out_in_the_log_domain():
    # exp(-900) is 0 in double precision; the score must not become minus infinity.
    logp = np.log(np.full((4, 3), 1e-9))
    logp[:, 1] = -900.0
    scorer = CTCPrefixScorer(logp, BLANK, 2)
    psi = scorer.score(scorer.start(), None)
    assert np.isfinite(psi).all()
    assert -1000 < psi[0, 1] < -800


@pytest.mark.parametrize("everything", [False, True])
def test_no_more_than_one_copy_of_the_log_probabilities_is_kept(everything):
    # As many frames as in ten minutes, of fewer tokens. ESPnet keeps two copies.
    logp = log_probs(15000, 700, 4.0, seed=0).numpy()
    candidates = None if everything else np.tile(np.arange(1, 31), (5, 1))
    tracemalloc.start()
    try:
        scorer = CTCPrefixScorer(logp, BLANK, 699)
        state = scorer.start()
        for _ in range(3):
            rows = len(state.tokens)
            ids = None if everything else candidates[:rows]
            psi = scorer.score(state, ids)
            parents, tokens = np.arange(5) % rows, np.arange(1, 6)
            columns = tokens if everything else tokens - 1
            state = scorer.extend(state, parents, tokens, psi[parents, columns])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * logp.nbytes


def test_blocks_of_the_vocabulary_give_what_all_of_it_gives(monkeypatch):
    logp = log_probs(40, 20, 4.0, seed=0).numpy()
    whole = CTCPrefixScorer(logp, BLANK, 19)
    monkeypatch.setattr(ctc_prefix, "KEPT_BYTES", 0)
    monkeypatch.setattr(ctc_prefix, "BLOCK_BYTES", 8 * 40 * 7)
    blocks = CTCPrefixScorer(logp, BLANK, 19)
    np.testing.assert_allclose(
        blocks.score(blocks.start(), None), whole.score(whole.start(), None), rtol=1e-12
    )
