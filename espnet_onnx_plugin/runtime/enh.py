"""Enhancement and separation: the bundles of task enh."""

from __future__ import annotations

from typing import Any

import numpy as np

from espnet_onnx_plugin.runtime.enhancement.engine import Separator
from espnet_onnx_plugin.runtime.enhancement.options import EnhOptions


class SeparateSpeech(Separator):
    """A bundle's model, as ``espnet2.bin.enh_inference.SeparateSpeech``.

    Arguments and attributes are those of
    :class:`~espnet_onnx_plugin.runtime.enhancement.engine.Separator`, the options those
    of :class:`~espnet_onnx_plugin.runtime.enhancement.options.EnhOptions`.
    """

    task = "enh"
    joint_task = "enh_asr"
    options_class = EnhOptions

    def __call__(
        self, speech_mix: np.ndarray, fs: int = 8000, **kwargs: Any
    ) -> list[np.ndarray]:
        """Enhance or separate mixtures.

        Args:
            speech_mix: (utterances, samples[, channels]).
            fs: samples a second.
            kwargs: ``utt2category``, numbers of the kinds of mixtures.

        Returns:
            Of each speaker (utterances, samples).

        Raises:
            PluginError: if a mixture or the category cannot be used.
        """
        category = kwargs.get("utt2category")
        # ESPnet goes by the first of a batch.
        mode = self.mode(None if category is None else int(category[0]))
        made = [
            self._waveforms(self.check(mix, fs), fs, {"mode": mode})
            for mix in self.batch(speech_mix)
        ]
        return list(np.stack(made, axis=1))
