"""Singing voice synthesis: the bundles of task svs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.releases import conventions
from espnet_onnx_plugin.runtime.synthesis.described import score_of
from espnet_onnx_plugin.runtime.synthesis.engine import Request, Synthesizer
from espnet_onnx_plugin.runtime.synthesis.features import Synthesized
from espnet_onnx_plugin.runtime.synthesis.model_inputs import (
    Given,
    ModelInputs,
    condition,
    finite,
    token_ids,
    whole_numbers,
)
from espnet_onnx_plugin.runtime.synthesis.options import SvsOptions
from espnet_onnx_plugin.runtime.synthesis.score import (
    Label,
    Phones,
    label_of_song,
    phones_of_song,
    score_of_song,
)
from espnet_onnx_plugin.runtime.synthesis.songs import Songs
from espnet_onnx_plugin.runtime.synthesis.vocoder import VocoderInputs

#: Outputs that ESPnet gives of a song, where a model makes them.
_OUTPUTS = ("feat_gen", "feat_gen_denorm", "pitch", "logits")

#: Outputs that ESPnet's features come with, and that are None.
_NO_ATTENTION = ("prob", "att_w")

#: Arguments that say who sings.
_VOICE = ("spembs", "sids", "lids")

#: Arguments that are numbers of a song's phones.
_OF_PHONES = tuple(field.name for field in dataclasses.fields(Phones))


class SingingGenerate(Synthesizer):
    """A bundle's model and vocoder, as ``espnet2.bin.svs_inference.SingingGenerate``.

    Arguments and attributes are those of
    :class:`~espnet_onnx_plugin.runtime.synthesis.engine.Synthesizer`, the options those
    of :class:`~espnet_onnx_plugin.runtime.synthesis.options.SvsOptions`.
    """

    task = "svs"
    options_class = SvsOptions
    options: SvsOptions
    data = Songs

    def phones(self, song: Mapping[str, Any]) -> Phones:
        """Numbers of a song's phones, as ESPnet's preprocessor has them.

        Args:
            song: score (a tempo and notes: start, end, syllable, midi, phones), and
                label (times (phones, 2) and phones) or text, as a string or token ids.

        Raises:
            PluginError: if score and label or text are not of one song.
        """
        if "score" not in song or not {"label", "text"} & set(song):
            raise PluginError("a song needs score, and label or text")
        score = score_of_song(song["score"])
        read = score_of(self.bundle.manifest)
        if "label" not in song:
            return phones_of_song(score, None, self._ids(song["text"]), read)
        times, names = label_of_song(song["label"])
        cleaned = self.converter.clean(" ".join(names)).split(" ")
        label = label_of_song(Label(times, cleaned))
        return phones_of_song(score, label, self.converter.tokens2ids, read)

    def _ids(self, text: Any) -> np.ndarray:
        """Token ids (phones,) of a text, or of such."""
        if isinstance(text, (list, tuple)) and all(isinstance(t, str) for t in text):
            text = " ".join(text)
        ids = self.converter.text2ids(text) if isinstance(text, str) else text
        return token_ids(ids, len(self.converter.token_list))

    def prepare(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The inputs of a song, with numbers of its phones.

        Args, raises: as of the base class.
        """
        phones = self.phones(inputs["text"])
        return {**inputs, "text": phones.label, **vars(phones)}

    def __call__(
        self,
        text: Mapping[str, Any] | np.ndarray,
        singing: np.ndarray | None = None,
        label: np.ndarray | None = None,
        midi: np.ndarray | None = None,
        duration_phn: np.ndarray | None = None,
        duration_ruled_phn: np.ndarray | None = None,
        duration_syb: np.ndarray | None = None,
        phn_cnt: np.ndarray | None = None,
        slur: np.ndarray | None = None,
        pitch: np.ndarray | None = None,
        energy: np.ndarray | None = None,
        spembs: np.ndarray | None = None,
        sids: np.ndarray | None = None,
        lids: np.ndarray | None = None,
        discrete_token: np.ndarray | None = None,
        decode_conf: Mapping[str, Any] | None = None,
        **unread: Any,
    ) -> dict[str, Any]:
        """Synthesize one song.

        Args:
            text: a song, see :meth:`phones`; or token ids (phones,), which no model
                reads, with the other numbers of the phones.
            singing: (samples,) in the model's sampling rate, for teacher forcing.
            label, midi, duration_phn, duration_ruled_phn, duration_syb, slur: numbers
                of each phone (phones,), see :class:`.score.Phones`.
            phn_cnt: how many phones each note has (notes,).
            pitch, energy: not read, as models make them of ``singing``.
            spembs: the singer's embedding (dim,).
            sids, lids: ids of singer and language (1,).
            discrete_token: tokens of the singing (frames * layers,).
            decode_conf: options that differ from the object's, for this call.
            unread: other arguments of ESPnet's, which change nothing.

        Returns:
            By name what ESPnet gives, as arrays: wav (samples,) where there is a
            vocoder or the model makes it, feat_gen and feat_gen_denorm (frames, dim),
            pitch (frames,) and logits (1, frames, tokens), each where the model has
            it; prob, att_w, duration and focus_rate are None.

        Raises:
            RuntimeError: if something that the model reads is not given, as in ESPnet.
            PluginError: if it cannot be used.
        """
        return self._synthesize(
            text=text,
            singing=singing,
            label=label,
            midi=midi,
            duration_phn=duration_phn,
            duration_ruled_phn=duration_ruled_phn,
            duration_syb=duration_syb,
            phn_cnt=phn_cnt,
            slur=slur,
            spembs=spembs,
            sids=sids,
            lids=lids,
            discrete_token=discrete_token,
            decode_conf=decode_conf,
        )

    def _request(
        self,
        text: Mapping[str, Any] | Given,
        decode_conf: Mapping[str, Any] | None = None,
        **given: Given,
    ) -> Request:
        """Check the arguments of :meth:`__call__`."""
        options = self._call_options(decode_conf)
        needed = self._needed(options)
        for name in (*_VOICE, "discrete_token"):
            if name in needed and given.get(name) is None:
                raise RuntimeError(f"Missing required argument: '{name}'")
        if "singing" in needed and given.get("singing") is None:
            raise RuntimeError("missing required argument: 'singing'")
        phones = self.phones(text) if isinstance(text, Mapping) else _phones(given)
        tensors: dict[str, Any] = {}
        for name in _VOICE:
            if name in needed:
                tensors[name] = condition(self.bundle.manifest, name, given[name])
        if "discrete_token" in needed:
            tokens = whole_numbers("discrete_token", given["discrete_token"])
            tensors["discrete_token"] = tokens
        if "singing" in needed:
            tensors["speech"] = finite("singing", given["singing"])
            if "frontend" in self._graphs:
                tensors["feats"] = self._features_of_speech(tensors["speech"])
        tensors["score"] = phones.tensors(score_of(self.bundle.manifest))
        if self._takes_durations:
            tensors["durations"] = phones.duration_phn
        return Request(ModelInputs(**tensors), options)

    @property
    def _takes_durations(self) -> bool:
        """Whether durations of the label are sung, where there are some."""
        release = conventions(self.bundle.manifest.espnet)
        return self.search.model == "VISinger" and release.visinger_takes_durations

    def _for_vocoder(self, made: Synthesized) -> VocoderInputs:
        """Inputs of the vocoder; that of tokens reads a row of them for each frame."""
        inputs = super()._for_vocoder(made)
        if made.logits is None:
            return inputs
        layers, order = self.options.discrete_token_layers, self.options.mix_type
        tokens = tokens_by_frame(inputs.feats, layers, order)
        return dataclasses.replace(inputs, feats=tokens, f0=made.pitch)

    def _outputs(self, made: Synthesized) -> dict[str, Any]:
        """ESPnet's outputs: no model has an attention."""
        values = {name: getattr(made, name) for name in _OUTPUTS}
        outputs: dict[str, Any] = {k: v for k, v in values.items() if v is not None}
        if "feat_gen" in outputs:
            outputs.update(dict.fromkeys(_NO_ATTENTION))
        return {**outputs, "duration": None, "focus_rate": None}

    def audio_seconds(self, made: Mapping[str, Any]) -> float:
        """Duration of what was made; of features, that of their frames."""
        if "wav" in made and self.fs is not None:
            return len(made["wav"]) / self.fs
        read = score_of(self.bundle.manifest)
        return len(made["feat_gen"]) * read.hop_length / read.fs


def tokens_by_frame(tokens: np.ndarray, layers: int, mix_type: str) -> np.ndarray:
    """Discrete tokens (frames * layers, 1) to (frames, layers).

    Args:
        tokens: as a model makes them.
        layers: how many a frame has.
        mix_type: their order: ``frame`` after frame, or layer after layer
            (``sequence``).

    Raises:
        PluginError: if they are not whole frames.
    """
    if len(tokens) % layers:
        raise PluginError(
            f"{len(tokens)} tokens are no whole frames of {layers}; give "
            "discrete_token_layers as in training"
        )
    if mix_type == "frame":
        return tokens.reshape(-1, layers)
    return tokens.reshape(layers, -1).T


def _phones(given: Mapping[str, Given]) -> Phones:
    """Numbers of a song's phones that were given one by one.

    Raises:
        RuntimeError: if one is not given.
        PluginError: if one is not integers.
    """
    numbers: dict[str, Any] = {"duration_phn": None}
    for name in _OF_PHONES:
        if given.get(name) is not None:
            numbers[name] = whole_numbers(name, given[name])
        elif name != "duration_phn":
            raise RuntimeError(f"Missing required argument: '{name}'")
    return Phones(**numbers)
