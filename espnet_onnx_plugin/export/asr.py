"""Export of ASR models: checkpoint to bundle."""

import bisect
import dataclasses
import logging
import shutil
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

import numpy as np
import onnx
import torch

import espnet_onnx_plugin
from espnet_onnx_plugin.bundle import (
    Bundle,
    Graph,
    Manifest,
    Speech,
    Text,
    new_bundle,
    read_bundle,
    sha256,
    write_manifest,
)
from espnet_onnx_plugin.derive import is_current
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export import parity
from espnet_onnx_plugin.export.encoder import PARTS, EncoderGraph
from espnet_onnx_plugin.export.graph import (
    OPSET,
    export_encoder,
    export_frontend,
    export_memory,
    export_step,
)
from espnet_onnx_plugin.export.model import Checkpoints, build, read_config
from espnet_onnx_plugin.export.registry import find
from espnet_onnx_plugin.export.steps import StepModule
from espnet_onnx_plugin.runtime.data import Source, usable
from espnet_onnx_plugin.runtime.encoder import Encoder
from espnet_onnx_plugin.runtime.session import Device, Session

logger = logging.getLogger(__name__)

#: Frames a second of extracted features: Kaldi's default shift of 10 ms.
FEATURE_RATE = 100

#: Choices of ``model`` in ``config.yaml``.
MODELS = ("espnet", "pit_espnet")

_TOKEN_TYPES = ("char", "bpe", "word", "phn", None)


def fingerprint(checkpoints: Checkpoints) -> Dict[str, Any]:
    """What a bundle is made from; equal fingerprints give equal bundles."""
    import espnet2

    return {
        "files": {name: sha256(path) for name, path in checkpoints.files().items()},
        "espnet": getattr(espnet2, "__version__", "unknown"),
        "torch": str(torch.__version__),
        "onnx": onnx.__version__,
        "opset": OPSET,
        "espnet_onnx_plugin": espnet_onnx_plugin.__version__,
    }


def _refuse(config: Mapping[str, Any]) -> None:
    """Name what this version cannot export, before anything is built.

    Some choices need packages, or weights from a hub, only to be built.
    """
    roles = ["frontend", *PARTS]
    if (config.get("model_conf") or {}).get("ctc_weight") != 1.0:
        roles.append("decoder")  # ESPnet leaves it out of a model that is all CTC
    for role in roles:
        if config.get(role) is not None:
            find(role, config[role])
    if config.get("model", "espnet") not in MODELS:
        raise PluginError(
            f"model '{config['model']}' is not supported (supported: "
            f"{', '.join(MODELS)})"
        )
    if config.get("token_type") not in _TOKEN_TYPES:
        raise PluginError(f"token_type '{config['token_type']}' is not supported yet")


def shortest_input(model: torch.nn.Module, shape: Sequence[int] = ()) -> int:
    """The shortest input for which ESPnet's ``encode`` does not give up.

    Args:
        model: an ``ESPnetASRModel``.
        shape: of a frame, where the input is features.

    Raises:
        PluginError: if it takes not even a long one.
    """
    reason = ""

    def fails(length: int) -> bool:
        nonlocal reason
        generator = torch.Generator().manual_seed(0)
        speech = 0.1 * torch.randn(1, length, *shape, generator=generator)
        try:
            with torch.no_grad():
                model.encode(speech=speech, speech_lengths=torch.tensor([length]))
        except Exception as e:  # TooShortUttError, or what a layer makes of too little
            reason = f"{type(e).__name__}: {' '.join(str(e).split())[:300]}"
            return True
        return False

    length = 1
    while fails(length):
        length *= 2
        if length > 1 << 18:
            raise PluginError(f"ESPnet cannot encode noise of any length: {reason}")
    shorter = range(length // 2 + 1, length)
    return length // 2 + 1 + bisect.bisect(shorter, False, key=lambda n: not fails(n))


def wrap_frontend(model: torch.nn.Module, args: Any) -> Optional[torch.nn.Module]:
    """The frontend of an ``ESPnetASRModel``, traceable; None where it has none."""
    if model.frontend is None:
        return None
    return find("frontend", args.frontend).wrap(model.frontend).eval()


def describe_speech(
    model: torch.nn.Module, frontend: Optional[torch.nn.Module], args: Any
) -> Speech:
    """What the input has to be.

    Args:
        model: an ``ESPnetASRModel``.
        frontend: what :func:`wrap_frontend` gave.
        args: the training arguments.
    """
    preprocessor = getattr(args, "preprocessor_conf", None) or {}
    common = dict(
        volume_normalize=getattr(args, "speech_volume_normalize", None),
        average_channels=bool(preprocessor.get("force_single_channel", False)),
    )
    if not args.use_preprocessor:
        common = {}
    if frontend is None:
        frames = shortest_input(model, (args.input_size,))
        return Speech("features", FEATURE_RATE, args.input_size, frames, **common)
    samples = shortest_input(model)
    return Speech("waveform", frontend.sampling_rate, 0, samples, **common)


def _write_text(model: torch.nn.Module, args: Any, work: Path) -> Text:
    tokens = list(model.token_list)
    (work / "tokens.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    bpemodel = None
    if args.token_type == "bpe" and args.bpemodel is not None:
        if not Path(args.bpemodel).is_file():
            raise PluginError(
                f"the training configuration names bpemodel {args.bpemodel}, which "
                "does not exist; run this in the recipe's directory"
            )
        bpemodel = "bpe.model"
        shutil.copyfile(args.bpemodel, work / bpemodel)
    return Text(args.token_type, "tokens.txt", bpemodel)


def export_asr(
    checkpoints: Checkpoints, output_dir: Path, parity_source: Optional[Source] = None
) -> Bundle:
    """Write a bundle from ESPnet's checkpoints, and check it.

    Args:
        checkpoints: the files.
        output_dir: the bundle; left alone when it is up to date.
        parity_source: real audio, of which a few utterances check the encoder.

    Raises:
        PluginError: if something is not supported, cannot be read, or a graph differs
            from PyTorch; ``output_dir`` is then as it was.
    """
    source = fingerprint(checkpoints)
    if is_current(output_dir, source):
        logger.info("%s is up to date", output_dir)
        return read_bundle(output_dir)
    with new_bundle(output_dir) as work:
        _export(checkpoints, work, source, parity_source)
    return read_bundle(output_dir)


class _Model:
    """ESPnet's modules, and what of them becomes graphs."""

    def __init__(self, checkpoints: Checkpoints):
        from espnet2.tasks.asr import ASRTask
        from espnet2.tasks.lm import LMTask

        _refuse(read_config(checkpoints.train_config))
        self.model, self.args = build(
            ASRTask, checkpoints.train_config, checkpoints.model_file
        )
        self.frontend = wrap_frontend(self.model, self.args)
        choices = {role: getattr(self.args, role, None) for role in PARTS}
        self.encoder = EncoderGraph(self.model, choices).eval()
        #: Decoders and language models by role.
        self.steps: Dict[str, StepModule] = {}
        if self.model.decoder is not None:
            arch = find("decoder", self.args.decoder)
            self.steps["decoder"] = arch.wrap(self.model.decoder).eval()
        if checkpoints.lm_file is not None:
            arch = find("lm", read_config(checkpoints.lm_train_config).get("lm"))
            lm, lm_args = build(
                LMTask, checkpoints.lm_train_config, checkpoints.lm_file
            )
            if list(lm_args.token_list) != list(self.model.token_list):
                raise PluginError(
                    f"the tokens of {checkpoints.lm_train_config} are not those of "
                    f"{checkpoints.train_config}; use a language model trained on the "
                    "same token list"
                )
            self.steps["lm"] = arch.wrap(lm.lm).eval()

    @property
    def dim(self) -> int:
        """Size of the encoder's output."""
        return self.encoder.output_size

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return len(self.model.token_list)


def _export(
    checkpoints: Checkpoints,
    work: Path,
    source: Dict[str, Any],
    parity_source: Optional[Source],
) -> None:
    espnet = _Model(checkpoints)
    model = espnet.model
    speech = describe_speech(model, espnet.frontend, espnet.args)
    text = _write_text(model, espnet.args, work)
    logger.info("exporting the encoder")
    graphs = export_audio(espnet.frontend, espnet.encoder, speech, work)
    for role, step in espnet.steps.items():
        logger.info("exporting the %s", role)
        if step.memory is not None:
            name = f"{role}_memory"
            graphs[name] = export_memory(step, espnet.dim, work / f"{name}.onnx")
        graphs[role] = export_step(step, espnet.vocabulary, work / f"{role}.onnx")
    ngram = None
    if checkpoints.ngram_file is not None:
        ngram = f"ngram{checkpoints.ngram_file.suffix}"
        shutil.copyfile(checkpoints.ngram_file, work / ngram)
    manifest = Manifest(
        task="asr",
        graphs=graphs,
        speech=speech,
        text=text,
        search=dict(sos=model.sos, eos=model.eos, blank=0),
        ngram=ngram,
        source=source,
    )
    bundle = Bundle(work, manifest)
    figures = _check_parity(bundle, espnet, parity_source)
    if not parity.encodes_batches(Encoder(bundle, Device()), speech):
        logger.info("the encoder mixes the utterances of a batch: it gets them singly")
        encoder = dataclasses.replace(graphs["encoder"], batches=False)
        manifest = dataclasses.replace(manifest, graphs=graphs | {"encoder": encoder})
    write_manifest(work, dataclasses.replace(manifest, checks=dict(parity=figures)))


def _example(speech: Speech, length: int) -> Tuple[torch.Tensor, torch.Tensor]:
    """Two utterances of unequal lengths, to trace a graph with."""
    shape = (2, length, *([speech.feature_dim] if speech.feature_dim else []))
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor([length, length - length // 5])
    return torch.randn(shape, generator=generator), lengths


def export_audio(
    frontend: Optional[torch.nn.Module],
    encoder: EncoderGraph,
    speech: Speech,
    work: Path,
) -> Dict[str, Graph]:
    """Write the graphs from audio to encoder output, by role."""
    graphs = {}
    example = _example(speech, speech.min_length * 8 + 1)
    feats = example
    if frontend is not None:
        with torch.no_grad():
            feats = frontend(*example)
            while feats[0].size(1) < encoder.trace_frames:
                example = _example(speech, 2 * example[0].size(1))
                feats = frontend(*example)
        graphs["frontend"] = export_frontend(
            frontend, example, feats[0].shape[2:], work / "frontend.onnx"
        )
    elif feats[0].size(1) < encoder.trace_frames:
        feats = _example(speech, encoder.trace_frames)
    graphs["encoder"] = export_encoder(encoder, feats, work / "encoder.onnx")
    return graphs


def verify_parity(
    bundle: Bundle, checkpoints: Checkpoints, source: Optional[Source] = None
) -> Dict[str, float]:
    """Compare every graph of an fp32 bundle with the model it was made from.

    Returns:
        The largest relative difference by component.

    Raises:
        PluginError: if one is above the tolerance.
    """
    return _check_parity(bundle, _Model(checkpoints), source)


def _check_parity(
    bundle: Bundle, espnet: _Model, source: Optional[Source]
) -> Dict[str, float]:
    logger.info("comparing every graph with PyTorch")
    device = Device()
    speech = bundle.manifest.speech
    encoder = Encoder(bundle, device)
    noise = parity.noise(speech)
    figures = {"encoder": parity.check_encoder(espnet.model, encoder, noise)}
    if source is not None:
        figures["encoder_on_real_audio"] = parity.check_encoder(
            espnet.model, encoder, usable(source, speech)
        )
    for role, step in espnet.steps.items():
        if role not in bundle.manifest.graphs:
            raise PluginError(f"{bundle.path} has no {role}; export it with one")
        memory = None
        if step.memory is not None:
            memory = Session(bundle, f"{role}_memory", device)
        session = Session(bundle, role, device)
        figures[role] = parity.check_step(
            step, session, memory, espnet.dim, espnet.vocabulary, role
        )
    for name, figure in figures.items():
        logger.info("parity of %s: %.1e", name, figure)
    return {k: float(np.format_float_scientific(v, 2)) for k, v in figures.items()}
