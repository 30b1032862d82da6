"""Models of the tasks that speak or sing, and their vocoders."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from espnet_onnx_plugin.bundle import Bundle, Manifest, Speech, Synthesis, Text
from espnet_onnx_plugin.bundle.search import Features
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.checkpoint_file import read_generator, weights_only
from espnet_onnx_plugin.export.checkpoints import Checkpoints, build, read_config
from espnet_onnx_plugin.export.graph import GraphSpec
from espnet_onnx_plugin.export.layers.draws import (
    OF_LOADER,
    drawn_since,
    dropouts_are_of_mkl,
)
from espnet_onnx_plugin.export.layers.vocoder import context, find_vocoder
from espnet_onnx_plugin.export.parity.synthesis import check_synthesis
from espnet_onnx_plugin.export.parity.tolerance import Parity
from espnet_onnx_plugin.export.patches import first_inputs
from espnet_onnx_plugin.export.registry import find
from espnet_onnx_plugin.export.tasks.tts_text import refuse_text, write_tts_text
from espnet_onnx_plugin.export.tts_module import TTSModule, TTSModules
from espnet_onnx_plugin.export.weights import refuse_no_numbers
from espnet_onnx_plugin.packages import import_package
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.io.data import Source
from espnet_onnx_plugin.runtime.synthesis.inputs import Arguments
from espnet_onnx_plugin.tasks import open_model


class SynthesisExporter(ABC):
    """The modules of a trained model that speaks or sings, and of its vocoder.

    Attributes:
        role: of its architectures, which is the name of ESPnet's module too.

    Args:
        checkpoints: the files of the model.

    Raises:
        PluginError: if something in them is not supported or cannot be read.
    """

    role: ClassVar[str]
    #: Whether ESPnet makes waveforms of features without a vocoder's file.
    griffin_lim: ClassVar[bool] = False

    def __init__(self, checkpoints: Checkpoints):
        config = read_config(checkpoints.train_config)
        self.refuse(config)
        for role in (self.role, "feats_extract"):
            if config.get(role) is not None:
                arch = find(role, config[role])
                arch.needs()
                arch.check(config.get(f"{role}_conf") or {})
        refuse_text(config)
        if config.get("pitch_extract") == "dio":
            import_package("pyworld", "pitch_extract 'dio'", "pyworld")
        # ESPnet's job seeds, builds the model and the vocoder, and then loads the data:
        # all of that draws, whatever the seed, and what is drawn next is noise.
        torch.manual_seed(0)
        task = self.espnet_task(config)
        self.model, self.args = build(
            task, checkpoints.train_config, checkpoints.model_file
        )
        self.voice: torch.nn.Module = getattr(self.model, self.role)
        self.vocoder = self._build_vocoder(task, checkpoints)
        self.drawn = drawn_since(0) + OF_LOADER
        self.wrapped: TTSModules = find(self.role, self.name).wrap(
            self.voice, self.denormalized_by
        )
        self.modules: dict[str, TTSModule] = dict(self.wrapped.modules)
        if isinstance(self.vocoder, torch.nn.Module):
            wrap = find_vocoder(self.vocoder.vocoder)
            self.modules["vocoder"] = wrap(self.vocoder.vocoder, self.voice.odim)
        forced, self.search = self.teacher_forcing()
        self.modules.update(forced)
        if self.reads_audio:
            analysis = find("feats_extract", self.args.feats_extract).wrap
            self.modules = {
                "frontend": analysis(self.model.feats_extract, self.model.normalize),
                **self.modules,
            }
        for module in self.modules.values():
            module.eval()

    @property
    def name(self) -> str:
        """ESPnet's name of the architecture."""
        return getattr(self.args, self.role)

    @abstractmethod
    def espnet_task(self, config: Mapping[str, Any]) -> type:
        """ESPnet's task of a training configuration."""

    def refuse(self, config: Mapping[str, Any]) -> None:  # noqa: B027
        """Name what of a training configuration is not supported.

        Raises:
            PluginError: naming it.
        """

    def teacher_forcing(self) -> tuple[dict[str, TTSModule], Features]:
        """Graphs that only teacher forcing needs, and the search with all it needs."""
        return {}, self.wrapped.search

    def check_options(self) -> Mapping[str, Any]:
        """Decoding options of the parity check."""
        return {}

    @property
    def denormalized_by(self) -> torch.nn.Module | None:
        """ESPnet's ``GlobalMVN``, of which features are given the inverse too."""
        return self.model.normalize

    @property
    def reads_audio(self) -> bool:
        """Whether features of speech are read: for its style, or as a teacher."""
        return self.model.feats_extract is not None

    def _build_vocoder(self, task: type, checkpoints: Checkpoints) -> Any:
        """ESPnet's vocoder of features, or None."""
        if not self.voice.require_vocoder:
            if checkpoints.vocoder_file is not None:
                raise PluginError(
                    f"--vocoder_file {checkpoints.vocoder_file} has no use: "
                    f"{self.role} '{self.name}' makes waveforms itself"
                )
            return None
        if checkpoints.vocoder_file is None and not self.griffin_lim:
            return None
        files = (checkpoints.vocoder_config, checkpoints.vocoder_file)
        if files[1] is not None and files[1].name.endswith(".pkl"):
            read_generator(files[1], files[0])
        try:
            with weights_only():  # parallel_wavegan loads it once more
                vocoder = task.build_vocoder_from_file(*files, self.model, "cpu")
        except ModuleNotFoundError as e:
            raise PluginError(
                f"--vocoder_file {files[1]} needs the package {e.name}: pip install "
                f"{e.name}"
            )
        except PluginError:
            raise
        except Exception as e:  # of yaml, pickle and whatever the modules raise
            reason = " ".join(str(e).split())[:300] or type(e).__name__
            raise PluginError(f"--vocoder_file {files[1]} cannot be used: {reason}")
        if isinstance(vocoder, torch.nn.Module):
            refuse_no_numbers(vocoder, files[1])
            vocoder.eval()
        return vocoder

    @property
    def speech(self) -> Speech | None:
        """Speech that the model can read: for its style, or as a teacher."""
        if "frontend" not in self.modules:
            return None
        analyses = [
            self.modules[r] for r in ("frontend", "energy") if r in self.modules
        ]
        shortest = max(analysis.shortest() for analysis in analyses)
        return Speech("waveform", self._rate or 0, 0, shortest)

    @property
    def _rate(self) -> int | None:
        for module in (self.vocoder, self.voice):
            if getattr(module, "fs", None) is not None:
                return int(module.fs)
        return None

    def describe_synthesis(self) -> Synthesis:
        """Speech that the model makes, and inputs that it reads besides text."""
        voice, vocoder = self.voice, self.modules.get("vocoder")
        reads = {
            "speech": getattr(voice, "use_gst", False),
            "spembs": voice.spk_embed_dim is not None,
            "sids": voice.spks is not None,
            "lids": voice.langs is not None,
        }
        griffin_lim = None
        if vocoder is None and self.vocoder is not None:
            griffin_lim = {k: v for k, v in self.vocoder.params.items()}
        return Synthesis(
            sampling_rate=self._rate,
            frame_shift=(
                vocoder.factor if vocoder else (griffin_lim or {}).get("n_shift")
            ),
            vocoder_reads=self._reads,
            vocoder_context=None if vocoder is None else context(vocoder),
            griffin_lim=griffin_lim,
            reads=tuple(name for name, needed in reads.items() if needed),
            speakers=voice.spks,
            languages=voice.langs,
            excitation=self.wrapped.excitation,
        )

    @property
    def _reads(self) -> str:
        reads = self.wrapped.vocoder_reads
        missing = reads == "feat_gen_denorm" and self.denormalized_by is None
        return "feat_gen" if missing else reads

    def write_texts(self, work: Path) -> dict[str, Text]:
        """Write tokens and what the text front end needs."""
        return {"text": write_tts_text(self.args, work)}

    def graph_specs(self) -> dict[str, GraphSpec]:
        """Every graph, by role."""
        return {role: module.graph_spec() for role, module in self.modules.items()}

    def describe(self) -> dict[str, object]:
        """Fields of the manifest besides graphs and texts."""
        search = dataclasses.replace(
            self.search,
            drawn=self.drawn,
            mkl=dropouts_are_of_mkl(),
            unused_draws={role: m.unused_draws for role, m in self.modules.items()},
            block=getattr(self.modules.get("vocoder"), "block", 1),
        )
        synthesis = self.describe_synthesis()
        return dict(speech=self.speech, search=search, synthesis=synthesis)

    def measured(self, bundle: Bundle, device: Device) -> Manifest:
        """The manifest: there is nothing to measure that the check does not."""
        return bundle.manifest

    def check_parity(
        self, bundle: Bundle, device: Device, source: Source | None = None
    ) -> Parity:
        """Compare what the bundle makes with what ESPnet makes, of made-up inputs.

        Raises:
            PluginError: if a difference is above the tolerance.
        """
        teacher = self.teacher if self.search.teacher_forcing else None
        ours = open_model(
            bundle,
            provider=device.provider,
            threads=device.threads,
            **self.check_options(),
        )
        return check_synthesis(ours, self.infer, teacher)

    @abstractmethod
    def teacher(self, inputs: Arguments) -> Arguments:
        """Made-up inputs of teacher forcing, besides others of an utterance."""

    def batch(self, inputs: Arguments) -> Mapping[str, np.ndarray]:
        """Arguments of ESPnet's model, of those of our class."""
        return inputs

    def waveform(self, outputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Give the model's outputs to ESPnet's vocoder."""
        return self.vocoder(outputs[self._reads])

    def made_up_voice(self, samples: int, seed: int) -> np.ndarray:
        """A voice that goes up and down, (samples,)."""
        time = np.arange(samples) / (self._rate or 16000)
        phase = 2 * np.pi * (150 * time + np.sin(20 * time))
        voice = sum(np.sin(k * phase) / k for k in range(1, 6))
        noise = np.random.default_rng(seed).standard_normal(samples)
        return (0.1 * voice + 0.01 * noise).astype(np.float32)

    @torch.no_grad()
    def infer(
        self, inputs: Arguments, options: Mapping[str, object], seed: int
    ) -> dict[str, torch.Tensor]:
        """Outputs of ESPnet's inference; a waveform where a network makes one."""
        torch.manual_seed(seed)
        given = self.batch(inputs).items()
        batch = {name: torch.from_numpy(value) for name, value in given}
        with first_inputs(self.wrapped.f0_reader) as seen:
            outputs = self.model.inference(**batch, **options)
        for f0 in seen:
            outputs["f0"] = f0.reshape(-1)
        if isinstance(self.vocoder, torch.nn.Module):
            outputs["wav"] = self.waveform(outputs)
        if "wav" in outputs:
            outputs["wav"] = outputs["wav"].reshape(-1)
        return outputs
