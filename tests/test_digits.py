"""A model trained on human speech: every token of every test set is ESPnet's."""

import itertools
import json

import pytest
import soundfile

import espnet_onnx_plugin
from espnet_onnx_plugin.evaluate.recognition import RecognitionEvaluator
from espnet_onnx_plugin.export.checkpoints import Checkpoints
from espnet_onnx_plugin.export.export import export_bundle
from espnet_onnx_plugin.optimize.fuse import optimize
from espnet_onnx_plugin.runtime.io.audio import Audio
from espnet_onnx_plugin.runtime.io.data import Source
from espnet_onnx_plugin.runtime.io.lists import read_scp
from espnet_onnx_plugin.runtime.recognition.decode import BatchLimits
from espnet_onnx_plugin.runtime.recognition.decode import decode as decode_all

SETS = ("dev", "test", "test_noisy")
FEW = [("optimized", 1, "nolm"), ("optimized", 10, "lm")]


@pytest.fixture(scope="module")
def bundle(request, digits, tmp_path_factory):
    """The bundle of a variant."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(digits)  # the configurations name files relative to the recipe
        asr = digits / "exp" / "asr_train_conformer_raw_en_char"
        lm = digits / "exp" / "lm_train_lm_en_char"
        checkpoints = Checkpoints(
            asr / "config.yaml",
            asr / "valid.acc.ave.pth",
            lm / "config.yaml",
            lm / "valid.loss.ave.pth",
        )
        out = tmp_path_factory.mktemp("digits")
        source = Source(digits / "dump" / "raw" / "dev" / "wav.scp", "sound", 10)
        fp32 = export_bundle("asr", checkpoints, out / "fp32", source)
        if request.param == "fp32":
            return fp32
        return optimize(fp32, out / "optimized", "cpu", RecognitionEvaluator(source))


#: A bundle's variant, beam and language model, of which a run without ``--full`` takes
#: two.
CASES = [
    pytest.param(
        *case,
        marks=[
            # Two groups, so that two workers share the longest tests of all.
            pytest.mark.xdist_group(f"digits_{case[0]}"),
            *([pytest.mark.more] if case not in FEW else []),
        ],
    )
    for case in itertools.product(("fp32", "optimized"), (1, 5, 10), ("nolm", "lm"))
]


@pytest.mark.parametrize("bundle, beam, decode", CASES, indirect=["bundle"])
def test_tokens_are_espnets(bundle, digits, beam, decode):
    ours = espnet_onnx_plugin.Speech2Text(
        bundle.path,
        beam_size=beam,
        ctc_weight=0.3,
        lm_weight=0.3 if decode == "lm" else 0.0,
    )
    # One at a time, and in batches, in which the rest is faster.
    limits = BatchLimits(1 if (beam, decode) == (1, "nolm") else 25)
    count = 0
    for name in SETS:
        file = digits / "espnet202511" / f"{name}.json"
        expected = json.loads(file.read_text())[f"beam{beam}_{decode}"]
        paths = read_scp(digits / "dump" / "raw" / name / "wav.scp")
        utterances = (
            (key, Audio(*soundfile.read(digits / paths[key]))) for key in expected
        )
        for decoded in decode_all(ours, utterances, limits):
            key, reference = decoded.key, expected[decoded.key]
            text, _, token_int, hypothesis = decoded.results[0]
            assert token_int == reference["token_int"], key
            assert text == reference["text"], key
            assert hypothesis.score == pytest.approx(reference["score"], abs=1e-3), key
            count += 1
    assert count == 500
