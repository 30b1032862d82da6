"""Fixtures of several tests: tiny random models in ESPnet's own files."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from sweeping.build import TOKENS as SWEPT
from sweeping.build import lengthen, randomize

from espnet_onnx_plugin.bundle import File, Text
from espnet_onnx_plugin.bundle.search import LabelSynchronous

pytest_plugins = ["disks", "shared_graphs"]

#: Modules in which ESPnet itself says what is expected, as they run.
COMPARED = "asr ctc_prefix s2t search slu st".split()

#: Modules that take seconds.
FAST = """bundle checkpoints convolutions ctc_prefix drivers edits install_recipe layers
listening noise options readme report report_reference report_sclite report_speech
rnn_attention search speech_quality tts_text words""".split()


for _name in (*COMPARED, *FAST):
    assert Path(__file__).with_name(f"test_{_name}.py").exists(), _name


def pytest_addoption(parser) -> None:
    """Add what runs everything."""
    said = "with every setting of every architecture and every random case"
    parser.addoption("--full", action="store_true", help=said)


def pytest_collection_modifyitems(config, items) -> None:
    """Choose what is run, mark what each run needs, and say what shares a worker."""
    kept = [item for item in items if config.getoption("full") or not is_more(item)]
    if len(kept) < len(items):
        config.hook.pytest_deselected(items=[i for i in items if is_more(i)])
    for item in kept:
        name = item.module.__name__.removeprefix("test_")
        if name in COMPARED:
            item.add_marker("espnet")
        if name in FAST:
            item.add_marker("fast")
        group = shared_group(item)
        if group and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(group))
    # The large pieces first, so that no worker waits for another's at the end.
    items[:] = sorted(kept, key=lambda i: i.get_closest_marker("xdist_group") is None)


def is_more(item) -> bool:
    """Whether a test is left to ``--full``."""
    return item.get_closest_marker("more") is not None


def shared_group(item) -> str | None:
    """Tests that share a fixture of their module: one worker makes it, and once."""
    found = item._fixtureinfo.name2fixturedefs
    names = [name for name, defs in found.items() if defs[-1].scope == "module"]
    params = item.callspec.indices if hasattr(item, "callspec") else {}
    chosen = [f"{name}{params[name]}" for name in sorted(names) if name in params]
    return " ".join((item.module.__name__, *chosen)) if names else None


def a_few(values, keep=1):
    """Parameters of which all but the first ``keep`` are left to ``--full``."""
    return [
        pytest.param(value, marks=[pytest.mark.more] if i >= keep else [])
        for i, value in enumerate(values)
    ]


def configurations(role: str) -> list:
    """Names of each architecture and its tiny configurations, :func:`a_few` of each."""
    from espnet_onnx_plugin.export.registry import all_archs

    return [
        pytest.param(arch.name, *few.values, id=f"{arch.name}-{name}", marks=few.marks)
        for arch in all_archs()
        if arch.role == role
        for name, few in zip(arch.tiny, a_few(arch.tiny))
    ]


#: Those of the sweep, so that its graphs are shared.
TOKENS = SWEPT["default"]

#: For manifests of graphs that are run without a search.
NO_TEXT = Text(None, File("", 0, ""))
NO_SEARCH = LabelSynchronous(sos=0, eos=0, blank=0)

#: Of a source language.
SRC_TOKENS = [*TOKENS[:-2], "'", "-", *TOKENS[-2:]]

#: One second and a bit: the tiny frontends of the registry run at 8 kHz.
RATE = 8000


def task_config(task: type, **choices: Any) -> dict[str, Any]:
    """A training configuration as ESPnet writes it, with tiny sizes."""
    config = dict(task.get_default_config())
    config.update(
        token_list=TOKENS,
        token_type="char",
        frontend="default",
        frontend_conf=dict(fs=RATE, n_fft=64, hop_length=32, n_mels=20),
        normalize="utterance_mvn",
        normalize_conf={},
        encoder="transformer",
        encoder_conf=dict(
            output_size=8, attention_heads=2, linear_units=12, num_blocks=1
        ),
        decoder="transformer",
        decoder_conf=dict(attention_heads=2, linear_units=12, num_blocks=2),
        specaug=None,
        init=None,
    )
    config.update(choices)
    return config


def asr_config(**choices: Any) -> dict[str, Any]:
    """Training configuration of task asr."""
    from espnet2.tasks.asr import ASRTask

    return task_config(ASRTask, **{"model_conf": dict(ctc_weight=0.3), **choices})


def st_config(**choices: Any) -> dict[str, Any]:
    """Training configuration of task st."""
    from espnet2.tasks.st import STTask

    source = dict(src_token_list=SRC_TOKENS, src_token_type="char")
    return task_config(STTask, **{"model_conf": {}, **source, **choices})


def tts_task() -> type:
    """ESPnet's; its import would fetch from the network what a g2p reads."""
    from unittest import mock

    import nltk

    with mock.patch.object(nltk, "download"):
        from espnet2.tasks.tts import TTSTask
    return TTSTask


def save_tts(arch: str, name: str, root: Path, **choices: Any) -> dict[str, Path]:
    """A model with a tiny configuration of the registry, see :func:`save`.

    Args:
        arch: of role tts, as ESPnet calls it.
        name: of the configuration.
        root: where the files go.
        choices: other keys of the training configuration.
    """
    from espnet_onnx_plugin.export.registry import find

    root.mkdir(parents=True, exist_ok=True)
    conf = dict(n_fft=64, hop_length=8)
    mel = dict(conf, fs=RATE, n_mels=10, fmin=80, fmax=3800)
    random = np.random.default_rng(0)
    stats = dict(count=100.0, sum=random.standard_normal(10) * 100)
    np.savez(root / "stats.npz", **stats, sum_square=100 * (4 + random.random(10)))
    task = tts_task()
    config = dict(task.get_default_config())
    config.update(
        token_list=TOKENS,
        token_type="char",
        cleaner=None,
        g2p=None,
        tts=arch,
        tts_conf=find("tts", arch).tiny[name],
        pitch_extract=None,
        energy_extract=None,
    )
    if arch in ("fastspeech2", "prodiff", "jets"):
        np.savez(root / "variance.npz", count=10.0, sum=[50.0], sum_square=[300.0])
        factor = config["tts_conf"].get("reduction_factor", 1)
        extract = dict(conf, fs=RATE, reduction_factor=factor)
        for variance, name, short in (
            ("pitch", "dio", "f0"),
            ("energy", "energy", "energy"),
        ):
            averaged = {f"use_token_averaged_{short}": arch != "jets"}
            config[f"{variance}_extract"] = name
            config[f"{variance}_extract_conf"] = {**extract, **averaged}
            config[f"{variance}_normalize"] = "global_mvn"
            stats_file = str(root / "variance.npz")
            config[f"{variance}_normalize_conf"] = dict(stats_file=stats_file)
    if arch == "vits":
        config.update(feats_extract="linear_spectrogram", normalize=None)
        config.update(feats_extract_conf=conf, normalize_conf={})
    else:
        config.update(feats_extract="fbank", feats_extract_conf=mel)
        config.update(normalize_conf=dict(stats_file=str(root / "stats.npz")))
    config.update(choices)
    model = build(task, config)
    for layer, module in model.named_modules():
        if layer.endswith("prob_out"):
            module.bias.data -= 3  # or most end at once
        if layer.endswith("duration_predictor.linear"):
            module.bias.data += 1  # or most last no time
    return save(model, config, root, "model.pth")


def save_svs(arch: str, name: str, root: Path, **choices: Any) -> dict[str, Path]:
    """A model with a tiny configuration of role svs, see :func:`save_tts`."""
    from unittest import mock

    import nltk

    from espnet_onnx_plugin.export.registry import find

    with mock.patch.object(nltk, "download"):
        from espnet2.tasks.gan_svs import GANSVSTask
        from espnet2.tasks.svs import SVSTask
    root.mkdir(parents=True, exist_ok=True)
    mel = dict(fs=RATE, n_fft=64, hop_length=8, n_mels=10, fmin=80, fmax=3800)
    random = np.random.default_rng(0)
    stats = dict(count=100.0, sum=random.standard_normal(10) * 100)
    np.savez(root / "stats.npz", **stats, sum_square=100 * (4 + random.random(10)))
    task = GANSVSTask if arch == "vits" else SVSTask
    framewise = arch == "naive_rnn"
    config = dict(task.get_default_config())
    config.update(
        token_list=TOKENS,
        token_type="phn",
        cleaner=None,
        g2p=None,
        fs=RATE,
        svs=arch,
        svs_conf=find("svs", arch).tiny[name],
        feats_extract="fbank",
        feats_extract_conf=mel,
        normalize_conf=dict(stats_file=str(root / "stats.npz")),
        score_feats_extract=f"{'frame' if framewise else 'syllable'}_score_feats",
        score_feats_extract_conf=dict(fs=RATE, n_fft=64, win_length=64, hop_length=8),
    )
    if config["svs_conf"].get("use_discrete_token"):
        config.update(model_type="discrete_svs", nclusters=12)
        config.update(discrete_token_layers=2 if name == "layers" else 1)
    if arch in ("toksing", "vits"):
        pitch = dict(fs=RATE, n_fft=64, hop_length=8, use_token_averaged_f0=False)
        pitch.update(use_log_f0=arch == "toksing")
        config.update(pitch_extract="dio", pitch_extract_conf=pitch)
    config.update(choices)
    model = build(task, config)
    lengthen(model)
    return save(model, config, root, "model.pth")


#: Small encoders and decoders of enhancement, by what ESPnet calls both.
ENDS = {
    "conv": dict(channel=12, kernel_size=8, stride=4),
    "stft": dict(n_fft=64, hop_length=16),
    "same": {},
}


def enh_config(arch: str, name: str, **choices: Any) -> dict[str, Any]:
    """Training configuration of task enh, with a tiny separator of the registry.

    Args:
        arch: of role separator, as ESPnet calls it.
        name: of the tiny configuration.
        choices: other keys.
    """
    from espnet2.tasks.enh import EnhancementTask

    from espnet_onnx_plugin.export.registry import find

    conf = dict(find("separator", arch).tiny[name])
    ends = conf.pop("ends", "conv")
    config = dict(EnhancementTask.get_default_config())
    config.update(
        encoder=ends,
        encoder_conf=dict(ENDS[ends]),
        decoder=ends,
        decoder_conf=dict(ENDS[ends]),
        separator=arch,
        separator_conf=conf,
        criterions=[],
        model_conf={},
        init=None,
    )
    config.update(choices)
    return config


def diffusion_config(arch: str, name: str, **choices: Any) -> dict[str, Any]:
    """Training configuration of task enh, with a tiny diffusion model of the registry.

    Args:
        arch: of role diffusion, as ESPnet calls it.
        name: of the tiny configuration.
        choices: other keys.
    """
    from espnet_onnx_plugin.export.registry import find

    conf = dict(find("diffusion", arch).tiny[name])
    transform = dict(
        n_fft=conf.pop("n_fft"), hop_length=24, spec_transform_type="exponent"
    )
    conf["sde_conf"] = dict(sigma_min=0.05, sigma_max=0.5, N=1000)
    ends = dict(encoder="stft", encoder_conf=transform)
    ends.update(decoder="stft", decoder_conf=transform)
    model = dict(diffusion_model=arch, diffusion_model_conf=conf)
    return enh_config("tcn", "global", **{**ends, **model, **choices})


def save_enh(arch: str, name: str, root: Path, **choices: Any) -> dict[str, Path]:
    """A model of :func:`enh_config` with random weights, see :func:`save`."""
    from espnet2.tasks.enh import EnhancementTask

    config = enh_config(arch, name, **choices)
    return save(build(EnhancementTask, config), config, root, "model.pth")


def enh_asr_config(arch: str, name: str, **choices: Any) -> dict[str, Any]:
    """Training configuration of task enh_s2t: enhancement, then recognition.

    Args:
        arch, name: of the separator, as of :func:`enh_config`.
        choices: other keys.
    """
    from espnet2.tasks.enh_s2t import EnhS2TTask

    config = dict(EnhS2TTask.get_default_config())
    for prefix, part in (("enh_", enh_config(arch, name)), ("asr_", asr_config())):
        for key, value in part.items():
            key = key if f"{prefix}{key}" not in config else f"{prefix}{key}"
            if key in config:
                config[key] = value
    config.update(model_conf=dict(calc_enh_loss=False), **choices)
    return config


def save_enh_asr(arch: str, name: str, root: Path, **choices: Any) -> dict[str, Path]:
    """A model of :func:`enh_asr_config` with random weights, see :func:`save`."""
    from espnet2.tasks.enh_s2t import EnhS2TTask

    config = enh_asr_config(arch, name, **choices)
    model = build(EnhS2TTask, config)
    sharpen(model.s2t_model)
    return save(model, config, root, "model.pth")


def diar_config(**choices: Any) -> dict[str, Any]:
    """Training configuration of task diar, with tiny sizes."""
    from espnet2.tasks.diar import DiarizationTask

    config = dict(DiarizationTask.get_default_config())
    config.update(
        num_spk=2,
        frontend_conf=dict(fs=RATE, n_fft=64, hop_length=32, n_mels=20),
        encoder_conf=dict(
            output_size=8, attention_heads=2, linear_units=12, num_blocks=1
        ),
        attractor="rnn",
        attractor_conf=dict(unit=8),
    )
    config.update(choices)
    return config


def enh_diar_config(name: str, mask: str, **choices: Any) -> dict[str, Any]:
    """Training configuration of task enh_s2t: separation and diarization.

    Args:
        name: tiny configuration of the separator, tcn_nomask.
        mask: likewise of the mask module, multi_mask.
        choices: other keys.
    """
    from espnet2.tasks.enh_s2t import EnhS2TTask

    from espnet_onnx_plugin.export.registry import find

    conf = dict(find("separator_nomask", "tcn_nomask").tiny[name])
    ends = conf.pop("ends", "conv")
    config = dict(EnhS2TTask.get_default_config())
    config.update(
        subtask_series=["enh", "diar"],
        enh_encoder=ends,
        enh_encoder_conf=dict(ENDS[ends]),
        enh_decoder=ends,
        enh_decoder_conf=dict(ENDS[ends]),
        enh_separator="tcn_nomask",
        enh_separator_conf=conf,
        enh_mask_module="multi_mask",
        enh_mask_module_conf=dict(find("mask_module", "multi_mask").tiny[mask]),
        enh_criterions=[],
        enh_model_conf={},
        diar_model_conf={},
        frontend=None,
        specaug=None,
        model_conf=dict(calc_enh_loss=False),
        init=None,
    )
    for key, value in diar_config(frontend=None).items():
        if f"diar_{key}" in config:
            config[f"diar_{key}"] = value
    config.update(diar_input_size=conf["bottleneck_dim"])
    config.update(choices)
    return config


def save_enh_diar(name: str, mask: str, root: Path, **choices: Any) -> dict[str, Path]:
    """A model of :func:`enh_diar_config` with random weights, see :func:`save`."""
    from espnet2.tasks.enh_s2t import EnhS2TTask

    config = enh_diar_config(name, mask, **choices)
    model = build(EnhS2TTask, config)
    encoder_out, *_ = model.encode_diar(*noise_about_a_mean(), 1)
    few_speakers(model.s2t_model.attractor, encoder_out)
    return save(model, config, root, "model.pth")


def save_diar(root: Path, **choices: Any) -> dict[str, Path]:
    """A model of :func:`diar_config` with random weights, see :func:`save`."""
    from espnet2.tasks.diar import DiarizationTask

    config = diar_config(**choices)
    model = build(DiarizationTask, config)
    if model.frontend is not None:
        encoder_out, _ = model.encode(*noise_about_a_mean(), None, None)
        few_speakers(model.attractor, encoder_out)
    return save(model, config, root, "model.pth")


def noise_about_a_mean():
    """A waveform (1, samples), and its length, as ESPnet's models take them."""
    import torch

    wave = torch.from_numpy(0.4 * waves()["utt1"] + 0.02).float()
    return wave[None], torch.tensor([len(wave)])


def few_speakers(attractor, encoder_out) -> None:
    """Let attractors of random weights count about two speakers.

    Args:
        attractor: an ``RnnAttractor``, or None.
        encoder_out: frames (1, frames, size) of a recording, in which they are two.
    """
    import torch

    if attractor is None:
        return
    _, frames, size = encoder_out.shape
    zeros, lengths = torch.zeros(1, 16, size), torch.tensor([frames])
    with torch.no_grad():
        [found], _ = attractor(encoder_out, lengths, zeros)
        way = found[0] - found[-1]
        weight = 10 * (way / way.norm() ** 2)[None]
        attractor.linear_projection.weight.copy_(weight)
        attractor.linear_projection.bias.copy_(-(weight @ found.T)[0, 1:3].mean())


def build_asr(config: dict[str, Any], seed: int = 0):
    """A model of task asr, see :func:`build`."""
    from espnet2.tasks.asr import ASRTask

    return build(ASRTask, config, seed)


def build(task: type, config: dict[str, Any], seed: int = 0):
    """A model of an ESPnet task with random weights, in eval mode."""
    import argparse

    import torch

    from espnet_onnx_plugin.export.checkpoints import losses_left_out

    torch.manual_seed(seed)
    with losses_left_out():
        model = task.build_model(argparse.Namespace(**config)).eval()
    randomize(model, seed)
    return model


def build_lm(name: str, conf: dict[str, Any], seed: int = 0, tokens=TOKENS):
    """An ``ESPnetLanguageModel`` with random weights, and its configuration."""
    import argparse

    import torch
    from espnet2.tasks.lm import LMTask

    config = dict(LMTask.get_default_config())
    config.update(token_list=tokens, token_type="char", lm=name, lm_conf=conf)
    torch.manual_seed(seed)
    return LMTask.build_model(argparse.Namespace(**config)).eval(), config


def save(model, config: dict[str, Any], directory: Path, name: str) -> dict[str, Path]:
    """Write what training leaves: ``config.yaml`` and a checkpoint."""
    import torch

    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    torch.save(model.state_dict(), directory / name)
    return {"config": directory / "config.yaml", "file": directory / name}


def sharpen(model) -> None:
    """Scale the output layers so that a random model's choices are not all alike."""
    if model.decoder is not None:
        names = ("output_layer", "output")  # that of the RNN decoder is the second
        [output] = [
            getattr(model.decoder, n) for n in names if hasattr(model.decoder, n)
        ]
        output.weight.data *= 6.0
        output.bias.data[-1] -= 3.0  # or most end at once
    if model.ctc is not None:
        model.ctc.ctc_lo.weight.data *= 6.0


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> dict[str, Any]:
    """A tiny ASR model and LM on disk, their bundle, and a data directory."""
    from espnet_onnx_plugin.export.checkpoints import Checkpoints
    from espnet_onnx_plugin.export.export import export_bundle

    root = tmp_path_factory.mktemp("tiny")
    config = asr_config()
    model = build_asr(config, seed=1)
    sharpen(model)
    asr = save(model, config, root / "asr", "model.pth")
    lm_model, lm_config = build_lm(
        "transformer", dict(embed_unit=6, att_unit=12, head=2, unit=20, layer=2)
    )
    lm = save(lm_model, lm_config, root / "lm", "lm.pth")
    checkpoints = Checkpoints(asr["config"], asr["file"], lm["config"], lm["file"])
    bundle = export_bundle("asr", checkpoints, root / "fp32")
    return dict(
        root=root,
        asr=asr,
        lm=lm,
        checkpoints=checkpoints,
        bundle=bundle.path,
        data=write_data(root / "data"),
    )


def waves(count: int = 4, seed: int = 0) -> dict[str, np.ndarray]:
    """Noise bursts of different lengths."""
    random = np.random.default_rng(seed)
    return {
        f"utt{i}": (0.2 * random.standard_normal(RATE // 2 + 1700 * i)).clip(-0.9, 0.9)
        for i in range(count)
    }


def write_data(directory: Path) -> Path:
    """A data directory with wav.scp (sound)."""
    import soundfile

    directory.mkdir(parents=True)
    with open(directory / "wav.scp", "w", encoding="utf-8") as f:
        for key, wave in waves().items():
            soundfile.write(directory / f"{key}.wav", wave, RATE)
            f.write(f"{key} {directory / f'{key}.wav'}\n")
    return directory


@pytest.fixture(scope="session")
def digits() -> Path:
    """A recipe directory with a model trained on human speech, if there is one."""
    default = Path(__file__).parents[2] / "shared" / "digits"
    path = Path(os.environ.get("DIGITS_ROOT", default))
    if not path.is_dir():
        pytest.skip("no trained digits recipe: set DIGITS_ROOT to its directory")
    return path


def run_readme(containing: str, bundles: dict[str, Path], **given: Any) -> dict:
    """Run a block of Python of the README, and give the names that it has set.

    Args:
        containing: what the block contains.
        bundles: paths by what stands for them in the block.
        given: names that it takes for granted.
    """
    import re

    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"(?s)```python\n(.*?)```", readme)
    [block] = [block for block in blocks if containing in block]
    for name, path in bundles.items():
        assert f'"{name}"' in block
        block = block.replace(f'"{name}"', repr(str(path)))
    exec(compile(block, "README.md", "exec"), given)
    return given
