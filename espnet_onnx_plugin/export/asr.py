"""Export of ASR models: checkpoint to bundle."""

import dataclasses
import logging
import shutil
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Union

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
from espnet_onnx_plugin.export.espnet_compat import import_nets
from espnet_onnx_plugin.export.graph import (
    OPSET,
    export_encoder,
    export_frontend,
    export_memory,
    export_sequence,
    export_step,
)
from espnet_onnx_plugin.export.model import Checkpoints, build, read_config
from espnet_onnx_plugin.export.registry import find
from espnet_onnx_plugin.export.sequences import SequenceModule
from espnet_onnx_plugin.export.steps import StepModule
from espnet_onnx_plugin.runtime.data import Source, usable
from espnet_onnx_plugin.runtime.encoder import Encoder
from espnet_onnx_plugin.runtime.session import Device, Session

logger = logging.getLogger(__name__)

#: Frames a second of extracted features: Kaldi's default shift of 10 ms.
FEATURE_RATE = 100

_MODELS = ("espnet", "maskctc")
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
    roles = ["frontend", *PARTS, "encoder"]
    if (config.get("model_conf") or {}).get("ctc_weight") != 1.0:
        roles.append("decoder")  # ESPnet leaves it out of a model that is all CTC
    for role in roles:
        if config.get(role) is not None:
            find(role, config[role])
    model = config.get("model", "espnet")
    if model not in _MODELS:
        raise PluginError(
            f"model '{model}' is not supported (supported: {', '.join(_MODELS)})"
        )
    if (model == "maskctc") != (config.get("decoder") == "mlm"):
        raise PluginError(
            f"model '{model}' with decoder '{config.get('decoder')}' is not supported: "
            "model maskctc and decoder mlm go together"
        )
    if config.get("postencoder") is not None:
        raise PluginError(f"postencoder '{config['postencoder']}' is not supported yet")
    if config.get("token_type") not in _TOKEN_TYPES:
        raise PluginError(f"token_type '{config['token_type']}' is not supported yet")


def _shortest_frames(encoder: torch.nn.Module) -> int:
    """The fewest feature frames for which ESPnet's encoder does not give up."""
    subsampling = import_nets("pytorch_backend.transformer.subsampling")
    frames = 1
    while subsampling.check_short_utt(getattr(encoder, "embed", None), frames)[0]:
        frames += 1
    return frames


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
    frames = _shortest_frames(model.encoder)
    preprocessor = getattr(args, "preprocessor_conf", None) or {}
    common = dict(
        volume_normalize=getattr(args, "speech_volume_normalize", None),
        average_channels=bool(preprocessor.get("force_single_channel", False)),
    )
    if not args.use_preprocessor:
        common = {}
    if frontend is None:
        return Speech("features", FEATURE_RATE, args.input_size, frames, **common)
    stft = frontend.stft
    samples = stft.n_fft - 2 * stft.pad + (frames - 1) * stft.hop_length
    # The reflection at the edges needs more samples than it adds.
    samples = max(samples, stft.pad + 1)
    rate = int(model.frontend.logmel.mel_options["sr"])
    return Speech("waveform", rate, 0, samples, **common)


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
        choices = {r: getattr(self.args, r, None) for r in (*PARTS, "encoder")}
        self.encoder = EncoderGraph(self.model, choices).eval()
        #: Decoders and language models by role.
        self.steps: Dict[str, Union[StepModule, SequenceModule]] = {}
        if self.model.decoder is not None:
            arch = find("decoder", self.args.decoder)
            decoder = arch.wrap(self.model.decoder).eval()
            whole = isinstance(decoder, SequenceModule)
            self.steps["mask_decoder" if whole else "decoder"] = decoder
        if "mask_decoder" in self.steps:
            if self.model.ctc is None:
                raise PluginError(
                    "model 'maskctc' without a CTC (ctc_weight 0) is not supported: "
                    "its masks are what the CTC is unsure of"
                )
            if checkpoints.lm_file or checkpoints.ngram_file:
                raise PluginError(
                    "Mask-CTC uses no language model: leave out --lm_train_config, "
                    "--lm_file and --ngram_file (--use_lm false in a recipe)"
                )
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
        return self.encoder.encoder.output_size()

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
        export = export_sequence if isinstance(step, SequenceModule) else export_step
        graphs[role] = export(step, espnet.vocabulary, work / f"{role}.onnx")
    search = dict(sos=model.sos, eos=model.eos, blank=0)
    if "mask_decoder" in espnet.steps:
        search["mask"] = model.mask_token
    ngram = None
    if checkpoints.ngram_file is not None:
        ngram = f"ngram{checkpoints.ngram_file.suffix}"
        shutil.copyfile(checkpoints.ngram_file, work / ngram)
    manifest = Manifest(
        task="asr",
        graphs=graphs,
        speech=speech,
        text=text,
        search=search,
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


def export_audio(
    frontend: Optional[torch.nn.Module],
    encoder: EncoderGraph,
    speech: Speech,
    work: Path,
) -> Dict[str, Graph]:
    """Write the graphs from audio to encoder output, by role."""
    graphs = {}
    length = speech.min_length * 8 + 1
    shape = (2, length, *([speech.feature_dim] if speech.feature_dim else []))
    generator = torch.Generator().manual_seed(1)
    example = (
        torch.randn(shape, generator=generator),
        torch.tensor([length, length - length // 5]),
    )
    if frontend is not None:
        with torch.no_grad():
            feats, lengths = frontend(*example)
        graphs["frontend"] = export_frontend(
            frontend, example, feats.size(2), work / "frontend.onnx"
        )
        example = (feats, lengths)
    graphs["encoder"] = export_encoder(encoder, example, work / "encoder.onnx")
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
        whole = isinstance(step, SequenceModule)
        check = parity.check_sequence if whole else parity.check_step
        figures[role] = check(
            step, session, memory, espnet.dim, espnet.vocabulary, role
        )
    for name, figure in figures.items():
        logger.info("parity of %s: %.1e", name, figure)
    return {k: float(np.format_float_scientific(v, 2)) for k, v in figures.items()}
