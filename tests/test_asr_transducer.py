"""Stand-alone transducers (``asr.sh --asr_task asr_transducer``): graphs and search."""

import copy
from argparse import Namespace
from contextlib import nullcontext

import espnet2
import numpy as np
import pytest
import torch
import yaml
from conftest import RATE, TOKENS, build, build_lm, save, task_config, waves
from espnet2.bin.asr_transducer_inference import Speech2Text as Reference
from espnet2.tasks.asr_transducer import ASRTransducerTask, decoder_choices

from espnet_onnx_plugin.bin.asr_transducer_inference import main
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.archs.rwkv_transducer_decoder import kernel_left_out
from espnet_onnx_plugin.export.checkpoints import Checkpoints
from espnet_onnx_plugin.export.export import export_bundle
from espnet_onnx_plugin.export.registry import all_archs, find
from espnet_onnx_plugin.runtime.asr_transducer import Speech2Text
from espnet_onnx_plugin.runtime.recognition.engine import TooShortUttError

CONFORMER = dict(
    block_type="conformer",
    hidden_size=8,
    linear_size=12,
    heads=2,
    conv_mod_kernel_size=3,
)

#: Where an utterance changes with the batch around it, in ESPnet too: a convolution
#: with a stride takes its positions from the batch's end on.
MIXES_BATCHES = {("conv1d", "before_conformer")}


def config_of(**choices):
    """A training configuration with tiny sizes."""
    config = task_config(
        ASRTransducerTask,
        **dict(
            decoder="rnn",
            decoder_conf=dict(embed_size=6, hidden_size=8),
            encoder_conf=dict(body_conf=[CONFORMER]),
            joint_network_conf=dict(joint_space_size=8),
            model_conf={},
        )
        | choices,
    )
    del config["encoder"]  # the task has no such choice
    return config


def written(root, seed=1, **choices):
    """A model that training left, see :func:`config_of`."""
    config = config_of(**choices)
    with kernel_left_out():
        # ESPnet writes into the settings that it builds from.
        model = build(ASRTransducerTask, copy.deepcopy(config), seed)
    # Of random weights, so that frames give several labels and blanks.
    model.joint_network.lin_out.weight.data *= 8.0
    model.joint_network.lin_enc.weight.data *= 4.0
    model.joint_network.lin_dec.weight.data *= 2.0
    model.joint_network.lin_out.bias.data[0] += 2.0
    return save(model, config, root, "model.pth")


def exported(files, path, lm=None):
    more = () if lm is None else (lm["config"], lm["file"])
    files = Checkpoints(files["config"], files["file"], *more)
    return export_bundle("asr_transducer", files, path)


def reference(files, lm=None, **options):
    """ESPnet's own inference."""
    if lm is not None:
        options.update(lm_train_config=lm["config"], lm_file=lm["file"])
    with kernel_left_out():
        return Reference(files["config"], files["file"], **options)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    root = tmp_path_factory.mktemp("transducer")
    files = written(root / "asr")
    model, config = build_lm("seq_rnn", dict(unit=8, nhid=10, nlayers=2))
    model.lm.decoder.weight.data *= 4.0
    lm = save(model, config, root / "lm", "lm.pth")
    bundle = exported(files, root / "fp32", lm)
    return dict(root=root, files=files, lm=lm, bundle=bundle.path)


def same(ours, theirs):
    """The same hypotheses as ESPnet's, in the same order."""
    assert [list(h.yseq) for h in ours] == [list(h.yseq) for h in theirs]
    for mine, other in zip(ours, theirs):
        assert mine.score == pytest.approx(float(other.score), abs=1e-3)


def compare(bundle, files, lm=None, least=2, count=4, **options):
    """Decode as ESPnet does, one by one and in a batch."""
    theirs = reference(files, lm, **options)
    if lm is None:
        options.update(lm_weight=0.0)
    ours = Speech2Text(bundle, **options)
    speech = [wave.astype(np.float32) for wave in waves(count).values()]
    expected = [theirs(one) for one in speech]
    for one, hypotheses in zip(speech, expected):
        same(ours(one), hypotheses)
    batch = ours.batch([ours.prepare(one) for one in speech])
    for results, hypotheses in zip(batch, expected):
        same([r.hypothesis for r in results], hypotheses)
    lengths = {len(hypotheses[0].yseq) for hypotheses in expected}
    assert max(lengths) > least, "ESPnet finds hardly any labels"
    return expected


CONFIGS = {
    "default": dict(beam_size=3),
    "default_beam_1": dict(beam_size=1),
    "default_normed": dict(beam_size=4, beam_search_config=dict(score_norm=True)),
    "tsd": dict(beam_size=4, beam_search_config=dict(search_type="tsd")),
    "tsd_2": dict(
        beam_size=3, beam_search_config=dict(search_type="tsd", max_sym_exp=2)
    ),
    "alsd": dict(beam_size=4, beam_search_config=dict(search_type="alsd")),
    "alsd_short": dict(
        beam_size=3, beam_search_config=dict(search_type="alsd", u_max=3)
    ),
    "maes": dict(beam_size=4, beam_search_config=dict(search_type="maes")),
    "maes_wide": dict(
        beam_size=3,
        beam_search_config=dict(
            search_type="maes", nstep=3, expansion_gamma=8.0, expansion_beta=4
        ),
    ),
    "maes_1": dict(
        beam_size=5, beam_search_config=dict(search_type="maes", nstep=1)
    ),
}


@pytest.mark.espnet
@pytest.mark.parametrize("with_lm", [False, True], ids=["alone", "lm"])
@pytest.mark.parametrize("name", CONFIGS)
def test_search_is_espnets(tiny, name, with_lm):
    lm = tiny["lm"] if with_lm else None
    options = dict(copy.deepcopy(CONFIGS[name]), nbest=3)
    if with_lm:
        options.update(lm_weight=0.4)
    compare(tiny["bundle"], tiny["files"], lm, **options)
