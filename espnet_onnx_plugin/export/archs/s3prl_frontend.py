"""``frontend: s3prl``: a self-supervised model of the s3prl collection."""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator, Sequence

import torch

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.layers.ssl_layers import (
    fairseq_hidden_states,
    weighted_sum,
)
from espnet_onnx_plugin.export.layers.waveform import (
    PlainConvolutions,
    shortest_waveform,
    standardize,
)
from espnet_onnx_plugin.export.registry import Arch, register

#: Whether a model of fairseq's kind gets standardized waveforms.
_STANDARDIZES = {
    "data2vec": lambda expert: expert.wav_normalize,
    "hubert": lambda expert: expert.task_cfg.normalize,
    "unispeech_sat": lambda expert: expert.cfg.normalize,
    "wav2vec2": lambda expert: expert.wav_normalize,
    "wavlm": lambda expert: expert.cfg.normalize,
}
_HUGGING_FACE = ("hf_hubert", "hf_wav2vec2")


def needs_s3prl() -> None:
    """Import s3prl, which ESPnet builds the frontend with.

    Raises:
        PluginError: if it is not installed.
    """
    try:
        with _old_torchaudio():
            import s3prl.nn  # noqa: F401
    except ImportError as e:
        raise PluginError(
            f"frontend 's3prl' needs the package s3prl ({e}): pip install s3prl"
        )


@contextlib.contextmanager
def _old_torchaudio() -> Iterator[None]:
    """Give torchaudio what it has no more and s3prl imports, but for other models.

    s3prl 0.4.18 with torchaudio 2.9 or newer: "module 'torchaudio' has no attribute
    'set_audio_backend'" (s3prl issue 575), then "No module named
    'torchaudio.sox_effects'". It can go when s3prl imports without.
    """
    import torchaudio

    with contextlib.ExitStack() as stack:
        if not hasattr(torchaudio, "set_audio_backend"):
            torchaudio.set_audio_backend = lambda backend: None
            stack.callback(delattr, torchaudio, "set_audio_backend")
        try:
            import torchaudio.sox_effects  # noqa: F401
        except ImportError:
            effects = types.ModuleType("torchaudio.sox_effects")
            effects.apply_effects_tensor = None
            sys.modules[effects.__name__] = effects
            stack.callback(sys.modules.pop, effects.__name__)
        yield


class S3prlFrontend(torch.nn.Module):
    """Waveform to features, ESPnet's ``S3prlFrontend`` for one utterance at a time.

    The mask of a batch's padding is left out, and normalizations see whole rows: the
    runtime gives a frontend single utterances.
    """

    sampling_rate = 16000

    def __init__(self, frontend: torch.nn.Module):
        super().__init__()
        expert = frontend.upstream.upstream
        family = type(expert).__module__.split(".")[-2]
        supported = [*_STANDARDIZES, *_HUGGING_FACE]
        if family not in supported or type(expert).__name__ != "UpstreamExpert":
            raise PluginError(
                f"s3prl upstream of the family '{family}' ({type(expert).__name__}) is "
                f"not supported (supported: {', '.join(sorted(supported))})"
            )
        if getattr(expert, "feature_selection", None) is not None:
            raise PluginError(
                f"s3prl upstream with feature_selection '{expert.feature_selection}' "
                "is not supported: leave it out of extra_conf"
            )
        if family in _HUGGING_FACE:
            self.hidden_states = _hugging_face_states
            self.eps = 1e-7 if expert.extracter.do_normalize else None
        else:
            self.hidden_states = fairseq_hidden_states
            self.eps = 1e-5 if _STANDARDIZES[family](expert) else None
        # Not the expert itself: its hooks keep what they see in a list, which
        # torch.export puts another one in the place of.
        self.model = expert.model
        self.forget = getattr(expert, "_hook_hiddens", []).clear
        self.plain = PlainConvolutions(expert.model)
        self.normalize = frontend.upstream.normalize
        self.layer = frontend.layer
        if self.layer == -1 and frontend.multilayer_feature:
            self.weights = frontend.featurizer.weights
        else:
            self.weights = None
        self.stride = frontend.hop_length
        self.tiles = frontend.tile_factor if self.layer == -1 else 1
        self.tile = frontend._tile_representations

    def shortest(self, frames: int) -> int:
        """The fewest samples that give so many frames.

        Below 1040 samples s3prl pads or fails, depending on the length; 65 ms hold no
        speech.
        """
        untiled = -(-frames // self.tiles)
        convolutions = self.model.feature_extractor
        return max((untiled - 1) * self.stride + 1, shortest_waveform(convolutions, 3))

    def forward(
        self, speech: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, samples), (B,) -> features (B, frames, dim), (B,)."""
        if self.eps is not None:
            speech = standardize(speech, self.eps)
        with self.plain.in_place():
            hidden = self.hidden_states(self.model, speech)
        self.forget()
        # s3prl counts a frame for every stride begun, and repeats the last one.
        feats = self._select(hidden)
        frames = torch.arange((speech.size(1) - 1) // self.stride + 1)
        feats = feats.index_select(1, frames.clamp(max=feats.size(1) - 1))
        if self.tiles != 1:
            feats = self.tile(feats)
        return feats, torch.div(lengths - 1, self.stride, rounding_mode="floor") + 1

    def _select(self, hidden: Sequence[torch.Tensor]) -> torch.Tensor:
        if self.weights is None:
            return self._normalized(hidden[self.layer])
        return weighted_sum(self.weights, [self._normalized(state) for state in hidden])

    def _normalized(self, state: torch.Tensor) -> torch.Tensor:
        if not self.normalize:
            return state
        return torch.nn.functional.layer_norm(state, state.shape[-1:])


def _hugging_face_states(
    model: torch.nn.Module, speech: torch.Tensor
) -> Sequence[torch.Tensor]:
    return model(speech, output_hidden_states=True).hidden_states


register(
    Arch(
        role="frontend",
        name="s3prl",
        wrap=S3prlFrontend,
        tiny={
            "hubert_weighted_sum": dict(
                frontend_conf=dict(upstream="hubert_local"), multilayer_feature=True
            ),
            "wav2vec2_layer": dict(
                frontend_conf=dict(upstream="wav2vec2_local"), layer=1
            ),
            "wavlm": dict(
                frontend_conf=dict(
                    upstream="wavlm_local", normalize=True, tile_factor=1
                ),
                multilayer_feature=True,
            ),
            "data2vec": dict(frontend_conf=dict(upstream="data2vec_local")),
            "unispeech_sat": dict(frontend_conf=dict(upstream="unispeech_sat_local")),
            "hf_hubert": dict(
                frontend_conf=dict(upstream="hf_hubert_custom"), multilayer_feature=True
            ),
            "hf_wav2vec2": dict(
                frontend_conf=dict(upstream="hf_wav2vec2_custom"), layer=1
            ),
        },
        limits="needs s3prl; upstreams hubert, wav2vec2 (XLSR), wavlm, data2vec, "
        "unispeech_sat, hf_hubert, hf_wav2vec2",
        needs=needs_s3prl,
    )
)
