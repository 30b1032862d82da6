"""Every architecture of ESPnet's own recipes that builds without weights from a hub.

tests/data/architectures.yaml lists them; scripts/list_architectures.py makes it from a
checkout of ESPnet.
"""

import inspect
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from sweeping.architectures import collect
from sweeping.build import build, why_not_built
from sweeping.coverage import compare, mute, table

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.espnet_compat import import_nets
from espnet_onnx_plugin.export.registry import find

ROOT = Path(__file__).parents[1]
LIST = ROOT / "tests" / "data" / "architectures.yaml"
ARCHITECTURES = yaml.safe_load(LIST.read_text(encoding="utf-8"))


def cases(kind):
    """Architectures that build, or do not for one reason.

    All but a task's first are left to ``--full``: tests/test_parity.py has their parts.
    """
    tasks, params = set(), []
    for architecture in ARCHITECTURES:
        why = architecture.get("excluded", "builds").partition(":")[0]
        if why != kind or spared(architecture):
            continue
        first = architecture["task"] not in tasks
        marks = [pytest.mark.fast if first else pytest.mark.more]
        tasks.add(architecture["task"])
        params.append(pytest.param(architecture, id=architecture["name"], marks=marks))
    return params


def spared(architecture):
    """Whether it is left to scripts/list_architectures.py, which compares all.

    Of text to speech the tests take the first of each model: tests/test_tts.py has the
    settings in which the others differ.
    """
    return architecture["task"] == "tts" and not architecture["name"].endswith("-1")


#: Its subsampling puts language and task in front, which ESPnet 202511 cannot.
PREFIXED_CONV2D = "s2t_ctc-e_branchformer_ctc-2"


def _takes_prefix() -> bool:
    subsampling = import_nets("pytorch_backend.transformer.subsampling")
    parameters = inspect.signature(subsampling.Conv2dSubsampling.forward).parameters
    return len(parameters) > 3


#: Pads to sizes that suit a processor, from release 202611 on, and so changes results.
BUCKETS = "tts-fastspeech2-7"


@pytest.mark.parametrize("architecture", cases("builds"))
def test_results_are_espnets(architecture, tmp_path):
    if architecture["name"] == PREFIXED_CONV2D and not _takes_prefix():
        pytest.skip("conv2d takes no prefix in this version of ESPnet")
    if architecture["config"].get("encoder") == "longformer":
        pytest.importorskip("longformer", reason="see tools/installers of ESPnet")
    assert compare(architecture, tmp_path) == []


def test_padding_to_buckets_is_refused_by_name():
    [architecture] = (a for a in ARCHITECTURES if a["name"] == BUCKETS)
    settings = architecture["config"]["tts_conf"]
    assert settings["bucket_infer"]
    others = {name: v for name, v in settings.items() if "bucket" not in name}
    model = build(dict(task="tts", config=dict(tts="fastspeech2", tts_conf=others)))
    wrap = find("tts", "fastspeech2").wrap
    assert wrap(model.tts, model.normalize)
    model.tts._bucket_infer = True
    with pytest.raises(PluginError, match="bucket_infer: true.*ESPNET_BUCKET_INFER"):
        wrap(model.tts, model.normalize)


def test_a_model_that_says_nothing_is_found():
    def model(text):
        return {"feat_gen": np.zeros((20, 3))}

    texts = [("a text", {"text": [1]}), ("a song", {"text": [2]})]
    model.data = SimpleNamespace(made_up=lambda bundle: texts)
    model.bundle = None
    found = [" ".join(reason.split()[:2]) for reason in mute(model)]
    assert found == ["a text", "a song", "all become"]


def collected(root, recipe, configs):
    conf = root / "egs2" / "corpus" / recipe / "conf"
    conf.mkdir(parents=True)
    for name, config in configs.items():
        (conf / f"{name}.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    found = collect(root)
    return found, [[Path(c).stem[-1] for c in a["configs"]] for a in found]


def test_sizes_and_training_settings_tell_no_architectures_apart(tmp_path):
    model = dict(encoder="transformer", decoder="transformer")
    joint = dict(joint_space_size=320)
    configs = {
        "train_a": dict(model, encoder_conf=dict(num_blocks=12)),
        "train_b": dict(
            model,
            encoder_conf=dict(output_size=512, dropout_rate=0.3, input_layer="conv2d"),
            model_conf=dict(ctc_weight=0.3, lsm_weight=0.1),
            optim="adam",
        ),
        "train_c": dict(model, encoder_conf=dict(input_layer="linear")),
        "train_d": dict(model, decoder="transducer", joint_net_conf=joint),
        "train_e": dict(model, encoder_conf=dict(nonesuch=1)),
        "train_f": dict(model, frontend_conf=dict(n_fft=512, win_length=400)),
        "decode": dict(beam_size=10),
    }
    found, stems = collected(tmp_path, "asr1", configs)
    assert stems == [["a", "b"], ["c"], ["d"], ["e"], ["f"]]
    reasons = [why_not_built(architecture) for architecture in found]
    assert reasons[:3] == [None] * 3 and reasons[4] is None
    assert reasons[3].startswith("ESPnet:") and "nonesuch" in reasons[3]
    for architecture, reason in zip(found, reasons):
        if reason is not None:
            architecture["excluded"] = reason
    rows = table(found, {found[1]["name"]: "no"}).splitlines()
    assert "| asr | 5 (6) | 4 (5) | 0 (0) | 0 (0) | 1 (1) | 3 (4) | 80% |" in rows
    assert f"{found[1]['name']}: no" in rows


def test_of_text_to_speech_what_is_there_and_what_is_not_is_told_apart(tmp_path):
    def vits(**params):
        return dict(tts="vits", tts_conf=dict(generator_params=params, lambda_mel=9.0))

    configs = {
        "train_a": dict(tts="tacotron2", tts_conf=dict(adim=9, econv_filts=3)),
        "train_b": dict(tts="tacotron2", tts_conf=dict(dropout_rate=0.1, spks=None)),
        "train_c": dict(tts="tacotron2", tts_conf=dict(spks=30)),
        "train_d": dict(tts="tacotron2", tts_conf=dict(postnet_layers=0)),
        "train_e": vits(spks=-1, decoder_upsample_scales=[8, 8, 2, 2, 2]),
        "train_f": vits(segment_size=16),
        "train_g": vits(spks=9, global_channels=256),
    }
    found, stems = collected(tmp_path, "tts1", configs)
    assert stems == [["a", "b"], ["c"], ["d"], ["e", "f"], ["g"]]
    params = found[-1]["config"]["tts_conf"]["generator_params"]
    assert params["spks"] == 3 and params["decoder_channels"] == 8
    assert why_not_built(found[-1]) is None and "vocabs" not in params
