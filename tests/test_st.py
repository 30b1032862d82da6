"""ST end to end at tiny size: ESPnet's own inference against ours."""

import numpy as np
import pytest
from conftest import TOKENS, asr_config, build, build_lm, save, waves

from espnet_onnx_plugin.export.export import export_bundle
from espnet_onnx_plugin.export.model import Checkpoints
from espnet_onnx_plugin.runtime.st import Speech2Text

SRC_TOKENS = [*TOKENS[:-2], "'", "-", *TOKENS[-2:]]
LM = dict(embed_unit=6, att_unit=12, head=2, unit=20, layer=1)

_LAYERS = dict(attention_heads=2, linear_units=12, num_blocks=1)
_ENCODER = dict(_LAYERS, output_size=8)
_ASR = dict(extra_asr_decoder="transformer", extra_asr_decoder_conf=_LAYERS)

CONFIGS = {
    "plain": dict(model_conf=dict(asr_weight=0.3, mtlalpha=1.0)),
    "hierarchical": dict(
        **_ASR,
        hier_encoder="conformer",
        hier_encoder_conf=dict(
            _ENCODER, input_layer=None, macaron_style=True, rel_pos_type="latest"
        ),
        model_conf=dict(asr_weight=0.3, mtlalpha=0.3, st_mtlalpha=0.3),
    ),
    "ctc": dict(model_conf=dict(asr_weight=0.0, st_mtlalpha=1.0)),
    "multi_decoder": dict(
        **_ASR,
        hier_encoder="transformer",
        hier_encoder_conf=dict(_ENCODER, input_layer="linear"),
        md_encoder="transformer",
        md_encoder_conf=dict(_ENCODER, input_layer=None),
        decoder="transformer_md",
        model_conf=dict(asr_weight=0.3, mtlalpha=0.3, st_mtlalpha=0.3),
    ),
    "multi_decoder_without_speech": dict(
        **_ASR,
        md_encoder="conformer",
        md_encoder_conf=dict(_ENCODER, input_layer="linear", use_cnn_module=False),
        decoder="transformer_md",
        decoder_conf=dict(_LAYERS, use_speech_attn=False),
        model_conf=dict(asr_weight=0.3, mtlalpha=0.3, st_mtlalpha=0.3),
    ),
}

#: Searches, by the models that they are for.
_PLAIN = dict(beam_size=4, lm_weight=0.0)
_JOINT = dict(beam_size=4, ctc_weight=0.3, lm_weight=0.3, penalty=0.1, nbest=3)
_TWICE = dict(_JOINT, asr_beam_size=4, asr_lm_weight=0.3, asr_penalty=0.1)
SEARCHES = {
    "plain": [_PLAIN, dict(beam_size=3, lm_weight=0.3, maxlenratio=0.4)],
    "hierarchical": [
        _JOINT,
        dict(beam_size=3, ctc_weight=0.5, minlenratio=0.2, normalize_length=True),
        dict(beam_size=4, ctc_greedy=True),
    ],
    "ctc": [dict(beam_size=20, ctc_weight=1.0), dict(beam_size=2, ctc_greedy=True)],
    "multi_decoder": [
        _TWICE,
        dict(_PLAIN, asr_beam_size=3, asr_ctc_weight=0.0, asr_maxlenratio=0.3),
    ],
    "multi_decoder_without_speech": [_TWICE, dict(_TWICE, asr_maxlenratio=-7)],
}


def st_config(**choices):
    """A training configuration as ESPnet writes it, with tiny sizes."""
    from espnet2.tasks.st import STTask

    config = {**STTask.get_default_config(), **asr_config(model_conf={})}
    own = dict(
        src_token_list=SRC_TOKENS,
        src_token_type="char",
        encoder_conf=_ENCODER,
        decoder_conf=_LAYERS,
    )
    return {**config, **own, **choices}


def build_st(config, seed=0):
    """An ``ESPnetSTModel`` whose choices are not all alike."""
    from espnet2.tasks.st import STTask

    model = build(STTask, config, seed)
    for name in ("decoder", "extra_asr_decoder"):
        if getattr(model, name, None) is not None:
            output = getattr(model, name).output_layer
            output.weight.data *= 6.0
            output.bias.data[-1] -= 3.0  # or most end at once
    for name in ("ctc", "st_ctc"):
        if getattr(model, name, None) is not None:
            getattr(model, name).ctc_lo.weight.data *= 6.0
    return model


@pytest.fixture(scope="module")
def translators(tmp_path_factory):
    """Gives a tiny model's files and bundle by name, made when first asked for."""
    root = tmp_path_factory.mktemp("st")
    lms = {}
    for side, tokens in (("", TOKENS), ("src_", SRC_TOKENS)):
        lm, config = build_lm("transformer", LM, tokens=tokens)
        files = save(lm, config, root / f"{side}lm", "lm.pth")
        lms[f"{side}lm_train_config"] = files["config"]
        lms[f"{side}lm_file"] = files["file"]
    made = {}

    def give(name):
        if name not in made:
            config = st_config(**CONFIGS[name])
            files = save(build_st(config), config, root / name, "model.pth")
            used = lms if "md_encoder" in CONFIGS[name] else dict(list(lms.items())[:2])
            checkpoints = Checkpoints(files["config"], files["file"], **used)
            bundle = export_bundle("st", checkpoints, root / name / "fp32")
            made[name] = checkpoints, bundle
        return made[name]

    return give


def espnets(checkpoints, **options):
    from espnet2.bin.st_inference import Speech2Text

    files = {name: str(path) for name, path in checkpoints.files().items()}
    files["st_train_config"] = files.pop("train_config")
    files["st_model_file"] = files.pop("model_file")
    return Speech2Text(**files, **options)


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs):
        assert mine[:3] == other[:3]
        assert list(mine[3].yseq) == [int(i) for i in other[3].yseq]
        assert mine[3].score == pytest.approx(float(other[3].score), abs=1e-3)


def test_results_are_espnets_for_every_kind_of_model(translators):
    lengths = set()
    for name, searches in SEARCHES.items():
        checkpoints, bundle = translators(name)
        for options in searches:
            theirs = espnets(checkpoints, **options)
            ours = Speech2Text(bundle, **options)
            for wave in list(waves().values())[:3]:
                expected = theirs(wave.astype(np.float32))
                results = ours(wave)
                if isinstance(expected, tuple):
                    (expected, recognized), (results, ours_first) = expected, results
                    assert_same(ours_first, recognized)
                    for mine, other in zip(ours_first, recognized):
                        assert mine[4] == pytest.approx(other[4].numpy(), abs=1e-4)
                assert_same(results, expected)
                lengths.update(len(result[2]) for result in results)
    assert max(lengths) > 3
