"""Text to speech: the bundles of task tts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from espnet_onnx_plugin.runtime.synthesis.engine import Request, Synthesizer
from espnet_onnx_plugin.runtime.synthesis.model_inputs import (
    Given,
    ModelInputs,
    condition,
    finite,
    token_ids,
)


class Text2Speech(Synthesizer):
    """A bundle's model and vocoder, as ``espnet2.bin.tts_inference.Text2Speech``.

    Arguments and attributes are those of
    :class:`~espnet_onnx_plugin.runtime.synthesis.engine.Synthesizer`, the options those
    of :class:`~espnet_onnx_plugin.runtime.synthesis.options.TtsOptions`.
    """

    task = "tts"

    def ids(self, text: str | Given) -> np.ndarray:
        """Token ids (tokens,) of a text, or of such.

        Raises:
            PluginError: if there is no token, or the text cannot be turned into tokens.
        """
        ids = self.converter.text2ids(text) if isinstance(text, str) else text
        return token_ids(ids, len(self.converter.token_list))

    def require_packages(self, kinds: Mapping[str, str]) -> None:
        """Load what makes phonemes; a package that is missing is the fault of no text.

        Args, raises: as of the base class.
        """
        if kinds["text"] == "text":
            self.converter.text2ids("")

    def prepare(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The inputs of an utterance, with token ids.

        Args, raises: as of the base class.
        """
        if not self.options.use_teacher_forcing:  # ESPnet gives its model none then
            inputs.pop("durations", None)
        return {**inputs, "text": self.ids(inputs["text"])}

    def __call__(
        self,
        text: str | np.ndarray,
        speech: np.ndarray | None = None,
        durations: np.ndarray | None = None,
        spembs: np.ndarray | None = None,
        sids: np.ndarray | None = None,
        lids: np.ndarray | None = None,
        decode_conf: Mapping[str, Any] | None = None,
    ) -> dict[str, np.ndarray]:
        """Synthesize one utterance.

        Args:
            text: a text, or token ids (tokens,).
            speech: (samples,) in the model's sampling rate, for its style or for
                teacher forcing.
            durations: frames of each symbol, in the place of predicted ones: of VITS,
                and in teacher forcing.
            spembs: the speaker's embedding (dim,).
            sids, lids: ids of speaker and language (1,).
            decode_conf: options that differ from the object's, for this call.

        Returns:
            By name what ESPnet gives, as arrays: feat_gen and feat_gen_denorm (frames,
            dim), wav (samples,), prob (frames,), att_w, duration and focus_rate, pitch
            and energy; each where the model has it.

        Raises:
            RuntimeError: if something that the model reads is not given, as in ESPnet.
            PluginError: if it cannot be used.
        """
        return self._synthesize(
            text, speech, durations, spembs, sids, lids, decode_conf
        )

    def _request(
        self,
        text: str | Given,
        speech: Given = None,
        durations: Given = None,
        spembs: Given = None,
        sids: Given = None,
        lids: Given = None,
        decode_conf: Mapping[str, Any] | None = None,
    ) -> Request:
        """Check the arguments of :meth:`__call__`."""
        options = self._call_options(decode_conf)
        needed = self._needed(options)
        given = dict(
            speech=speech, durations=durations, spembs=spembs, sids=sids, lids=lids
        )
        for name, value in given.items():
            if name in needed and value is None:
                raise RuntimeError(f"Missing required argument: '{name}'")
        tensors: dict[str, Any] = {"text": self.ids(text)}
        for name in ("spembs", "sids", "lids"):
            if name in needed:
                tensors[name] = condition(self.bundle.manifest, name, given[name])
        if "speech" in needed:
            tensors["speech"] = finite("speech", speech)
            tensors["feats"] = self._features_of_speech(tensors["speech"])
        return Request(ModelInputs(**tensors, durations=durations), options)
