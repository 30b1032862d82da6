"""An export anew where something that it depends on has changed, and only there."""

import os
import tempfile

import numpy as np
import pytest
import yaml
from conftest import TOKENS, asr_config, build_asr, save

from espnet_onnx_plugin.bin import export
from espnet_onnx_plugin.bundle import MANIFEST, read_bundle
from espnet_onnx_plugin.export.checkpoints import Checkpoints
from espnet_onnx_plugin.export.fingerprint import fingerprint

#: Settings by what they name; %s is the file.
NAMED = {
    "tokens": dict(token_list="%s"),
    "tokenizer": dict(token_type="bpe", bpemodel="%s"),
    "source tokens": dict(src_token_list="%s"),
    "source tokenizer": dict(src_bpemodel="%s"),
    "tokens of the transcript": dict(transcript_token_list="%s"),
    "symbols": dict(non_linguistic_symbols="%s"),
    "statistics": dict(normalize_conf=dict(stats_file="%s")),
    "statistics of pitch": dict(pitch_normalize_conf=dict(stats_file="%s")),
    "part of a part": dict(frontend_conf=dict(frontends=[dict(checkpoint="%s")])),
    "what adapters were added to": dict(use_adapter=True, init_param=["%s:a:b"]),
    "what was frozen": dict(freeze_param=["encoder"], init_param=["%s"]),
}

#: Those that only training reads.
UNREAD = {
    "data": dict(train_data_path_and_name_and_type=[["%s", "speech", "sound"]]),
    "noise": dict(preprocessor_conf=dict(noise_scp="%s")),
    "begin": dict(init_param=["%s:a:b"]),
}


def put(settings, name):
    """The settings, with a name in the place of %s."""
    return yaml.safe_load(yaml.safe_dump(settings).replace("%s", str(name)))


@pytest.fixture
def model(tmp_path):
    """Write a configuration and give the fingerprint of its model."""
    (tmp_path / "model.pth").write_text("weights")

    def of(settings, **others):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
        files = Checkpoints(tmp_path / "config.yaml", tmp_path / "model.pth", **others)
        return fingerprint("asr", files)

    return of


@pytest.mark.parametrize("settings", NAMED.values(), ids=NAMED)
def test_a_file_counts_by_its_content(tmp_path, model, settings):
    file, moved = tmp_path / "named", tmp_path / "elsewhere"
    file.write_text("old")
    before = model(put(settings, file))
    os.utime(file, (1, 1))
    assert model(put(settings, file)) == before
    file.write_text("new")
    assert model(put(settings, file)) != before
    file.unlink()
    assert model(put(settings, file)) != before  # and the export says that it is gone
    moved.write_text("old")
    assert model(put(settings, moved)) == before


@pytest.mark.parametrize("settings", UNREAD.values(), ids=UNREAD)
def test_a_file_of_training_does_not_count(tmp_path, model, settings):
    (tmp_path / "named").write_text("old")
    before = model(put(settings, tmp_path / "named"))
    (tmp_path / "named").write_text("new")
    assert model(put(settings, tmp_path / "named")) == before
    assert model(put(settings, tmp_path / "other")) != before


@pytest.mark.parametrize("others", ["lm_train_config", "inference_enh_config"])
def test_files_that_other_configurations_name_count(tmp_path, model, others):
    path, named = tmp_path / "other.yaml", tmp_path / "named"
    path.write_text(yaml.safe_dump(dict(token_list=str(named))))
    given = {others: path}
    if others == "lm_train_config":
        given["lm_file"] = path
    digests = []
    for content in ("old", "new", "old"):
        named.write_text(content)
        digests.append(model({}, **given))
    assert digests[0] == digests[2] != digests[1]


def test_what_lies_beside_a_vocoder_counts(tmp_path, model):
    (tmp_path / "vocoder").mkdir()
    file = tmp_path / "vocoder" / "checkpoint.pkl"
    file.write_text("weights")
    digests = [model({}, vocoder_file=file)]
    for content in ("old", "new"):
        (tmp_path / "vocoder" / "stats.h5").write_text(content)
        digests.append(model({}, vocoder_file=file))
    assert len({str(digest) for digest in digests}) == 3


def test_a_local_model_of_transformers_counts(tmp_path, model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hub = tmp_path / "bert"
    hub.mkdir()
    (hub / "tokenizer.json").write_text("old")
    settings = dict(bpemodel="bert", decoder_conf=dict(model_name_or_path="bert"))
    no_model = model(settings)
    (hub / "tokenizer.json").write_text("new")
    assert model(settings) == no_model  # any directory, as one of the same name
    (hub / "config.json").write_text("{}")
    found = model(settings)
    assert found != no_model
    (hub / "tokenizer.json").write_text("old")
    assert model(settings) != found


def test_a_list_of_tokens_is_not_one_of_files(tmp_path, model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").write_text("old")
    before = model(dict(token_list=["a", "b"]))
    (tmp_path / "a").write_text("new")
    assert model(dict(token_list=["a", "b"])) == before


@pytest.mark.parametrize("name", ["", ".", "/", "x" * 5000, "a\0b", ":"])
def test_any_text_may_stand_where_a_name_does(model, name):
    settings = dict(bpemodel=name, encoder_conf=dict(directory=name))
    assert model(settings) == model(settings)


@pytest.mark.parametrize("content", ["[1, 2]", "a: [", "%s"])
def test_what_is_no_configuration_is_said_by_the_export(tmp_path, model, content):
    path = tmp_path / "other.yaml"
    path.write_text(content)
    before = model({}, inference_enh_config=path)
    path.write_text(content + " ")
    assert model({}, inference_enh_config=path) != before


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A recipe's directory with a model of word pieces and of normalized features."""
    import sentencepiece

    monkeypatch.chdir(tmp_path)

    def train(seed):
        words = [f"{a}{b}{c}" for a in "abc" for b in "dig" for c in "fo"][seed:]
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(words * 20),
            model_prefix="bpe",
            vocab_size=12,
            minloglevel=2,
        )

    train(0)
    (tmp_path / "tokens.txt").write_text("\n".join(TOKENS) + "\n")
    random = np.random.default_rng(0)

    def normalize(scale):
        count, sums = 100.0, random.standard_normal(20) * scale
        np.savez("stats.npz", count=count, sum=sums, sum_square=100 * sums**2 + 100)

    normalize(1)
    config = asr_config(
        token_list="tokens.txt",
        token_type="bpe",
        bpemodel="bpe.model",
        normalize="global_mvn",
        normalize_conf=dict(stats_file="stats.npz"),
    )
    model = build_asr({**config, "token_list": TOKENS})
    save(model, config, tmp_path / "asr", "model.pth")

    def exchange():
        others = [TOKENS[0], TOKENS[1], TOKENS[3], TOKENS[2], *TOKENS[4:]]
        (tmp_path / "tokens.txt").write_text("\n".join(others) + "\n")

    return {
        "bpe.model": lambda: train(2),
        "stats.npz": lambda: normalize(2),
        "tokens.txt": exchange,
    }


ARGS = "--train_config asr/config.yaml --model_file asr/model.pth --output_dir".split()


def test_what_a_configuration_names_is_exported_anew(recipe, tmp_path, capsys):
    out = tmp_path / "fp32"
    export.main([*ARGS, "fp32"])
    for name, change in recipe.items():
        before = (out / MANIFEST).stat().st_mtime_ns
        os.utime(name, (1, 1))
        export.main([*ARGS, "fp32"])
        assert (out / MANIFEST).stat().st_mtime_ns == before
        files = {f.name: f.sha256 for f in read_bundle(out).manifest.files}
        change()
        export.main([*ARGS, "fp32"])
        assert (out / MANIFEST).stat().st_mtime_ns != before
        if name != "stats.npz":  # the checkpoint has them too, and those count
            new = {f.name: f.sha256 for f in read_bundle(out).manifest.files}
            assert new != files
    manifest = (out / MANIFEST).read_text()
    os.unlink("bpe.model")
    with pytest.raises(SystemExit):
        export.main([*ARGS, "fp32"])
    message = "names bpemodel bpe.model, which does not exist"
    assert message in capsys.readouterr().err
    assert (out / MANIFEST).read_text() == manifest


def test_a_packed_model_is_exported_once(recipe, tmp_path, monkeypatch):
    """Its files are unpacked elsewhere each time, beside the bundle."""
    from espnet2.main_funcs.pack_funcs import pack

    def zipped():
        pack(
            files=dict(asr_model_file="asr/model.pth"),
            yaml_files=dict(asr_train_config="asr/config.yaml"),
            option=["bpe.model", "stats.npz", "tokens.txt"],
            outpath="model.zip",
        )

    args = ["--model_tag", "model.zip", "--output_dir", "exp/fp32"]
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    zipped()
    export.main(args)
    before = (tmp_path / "exp/fp32" / MANIFEST).stat().st_mtime_ns
    export.main(args)
    assert (tmp_path / "exp/fp32" / MANIFEST).stat().st_mtime_ns == before
    recipe["bpe.model"]()
    zipped()
    export.main(args)
    assert (tmp_path / "exp/fp32" / MANIFEST).stat().st_mtime_ns != before
    assert [path.name for path in (tmp_path / "exp").iterdir()] == ["fp32"]
