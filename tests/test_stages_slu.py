"""The stages in a made-up recipe of spoken language understanding."""

from pathlib import Path

import pytest
from recipes import make_recipe, module_calls, run_onnx


@pytest.mark.parametrize("transcript", [False, True])
def test_a_transcript_is_read_where_the_recipe_says_so(
    tmp_path, monkeypatch, transcript
):
    monkeypatch.chdir(tmp_path)
    make_recipe("slu")
    result = run_onnx(
        *("--stage", "14"),
        *("--onnx_variants", "fp32 int8", "--use_transcript", str(transcript).lower()),
        template="slu",
    )
    assert result.returncode == 0, result.stderr
    [export] = module_calls("export")
    assert export["task"] == ["slu"] and export["model_file"] == ["exp/slu/m.pth"]
    [quantize] = module_calls("quantize")
    valid = ["dump/raw/org/valid/transcript"] if transcript else None
    assert quantize.get("calibration_transcript") == valid
    expected = ["dump/raw/test_a/wav.scp,speech,sound"]
    if transcript:
        expected += ["dump/raw/test_a/transcript,transcript,text"]
    decode = module_calls("slu_inference")[0]
    assert decode["data_path_and_name_and_type"] == expected
    text = Path("exp/slu/tag_onnx_fp32/test_a/text").read_text()
    assert len(text.splitlines()) == 4
