"""The speech that a bundle makes of texts, and how far it is from another's."""

import logging
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

import numpy as np

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.error_rate import error_rate
from espnet_onnx_plugin.evaluate.listener import Listener, plain
from espnet_onnx_plugin.evaluate.options import SpeechBudget
from espnet_onnx_plugin.evaluate.recorder import TIMED, Feeds, Recorder
from espnet_onnx_plugin.evaluate.speech_graphs import check_options
from espnet_onnx_plugin.evaluate.speech_quality import (
    MEL_CEPSTRA,
    WINDOW,
    Measures,
    average,
    compare,
)
from espnet_onnx_plugin.packages import import_package
from espnet_onnx_plugin.runtime.io.progress import progress
from espnet_onnx_plugin.runtime.synthesis.inputs import Texts, utterances
from espnet_onnx_plugin.runtime.tts import Text2Speech

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SpeechQuality:
    """What a bundle spoke, against fp32; None where nothing could be measured."""

    utterances: int
    identical: int
    mcd: Optional[float] = None
    log_f0_rmse: Optional[float] = None
    cer_fp32: Optional[float] = None
    cer: Optional[float] = None

    @property
    def measured(self) -> bool:
        """Whether there is a figure that a budget limits."""
        return any(f is not None for f in (self.mcd, self.log_f0_rmse, self.cer))

    def within(self, budget: SpeechBudget) -> bool:
        """Whether a budget holds."""
        increase = (self.cer or 0.0) - (self.cer_fp32 or 0.0)
        return (
            (self.mcd or 0.0) <= budget.max_mcd
            and (self.log_f0_rmse or 0.0) <= budget.max_log_f0_rmse
            # An allowance of 0.5 is not exceeded by 0.5, whatever the rounding.
            and increase <= budget.max_cer_increase + 1e-9
        )

    def __str__(self) -> str:
        figures = {
            "MCD": (self.mcd, " dB"),
            "log-F0 RMSE": (self.log_f0_rmse, ""),
            "CER of fp32": (self.cer_fp32, " %"),
            "CER": (self.cer, " %"),
        }
        known = [f"{n} {v:.3f}{u}" for n, (v, u) in figures.items() if v is not None]
        return ", ".join(known) or "nothing that could be measured"

    def as_dict(self) -> Dict[str, Any]:
        """For the manifest."""
        figures = {k: v for k, v in vars(self).items() if v is not None}
        return {k: round(v, 5) for k, v in figures.items()}


@dataclass(frozen=True)
class Spoken:
    """What a budget is measured on.

    Attributes:
        texts: what is spoken; made-up texts stand in where it is None.
        options: ESPnet's decoding options.
        asr_model_dir: bundle of an ASR model that listens, or None.
    """

    texts: Optional[Texts] = None
    options: Optional[Mapping[str, Any]] = None
    asr_model_dir: Optional[Path] = None

    #: What the command takes such input as.
    option = "--data_path_and_name_and_type"

    @property
    def real(self) -> bool:
        """Whether the texts are given."""
        return self.texts is not None

    def as_dict(self) -> Optional[Dict[str, Any]]:
        """For the manifest: what decides the measures."""
        if self.texts is None:
            return None
        return dict(
            data=[list(entry) for entry in self.texts.data],
            limit=self.texts.limit,
            options=self.options and dict(self.options),
            asr_model_dir=self.asr_model_dir and str(self.asr_model_dir),
        )

    @property
    def kind(self) -> str:
        """What a manifest calls it."""
        return "real" if self.real else "made-up"

    def reader(self, model: Bundle) -> "Speaker":
        """Speak with the fp32 bundle."""
        return Speaker(model, self)


#: Of a waveform that is no speech any more.
LOST = Measures(math.inf, math.inf)


def _measured(reference: np.ndarray, other: np.ndarray, rate: int) -> Measures:
    """Measure a waveform; at the next higher rate where its own is not defined.

    A waveform that is lost, or its voice, is infinitely far, where a comparison of
    recordings leaves it out.
    """
    if not np.isfinite(other).all():
        return LOST
    if rate not in MEL_CEPSTRA:
        higher = min((r for r in MEL_CEPSTRA if r > rate), default=max(MEL_CEPSTRA))
        soxr = import_package("soxr", f"measures of speech at {rate} Hz", "soxr")
        waves = [soxr.resample(wave, rate, higher) for wave in (reference, other)]
        return _measured(*waves, higher)
    if (len(other) < WINDOW) != (len(reference) < WINDOW):
        return LOST
    measures = compare(reference, other, rate)
    if measures.log_f0_rmse is None and _is_voiced(reference, rate):
        return replace(measures, log_f0_rmse=math.inf)
    return measures


def _is_voiced(wave: np.ndarray, rate: int) -> bool:
    return compare(wave, wave, rate).log_f0_rmse is not None


class Speaker:
    """Speaks the texts, with the fp32 bundle once and with others as they come.

    Args:
        model: the fp32 bundle.
        spoken: what to speak.

    Raises:
        PluginError: if a model is to listen to what it cannot be held to.

    Attributes:
        feeds: inputs of each graph, by role.
    """

    def __init__(self, model: Bundle, spoken: Spoken):
        self._model, self._spoken = model, spoken
        self._options = {**(spoken.options or {}), **check_options(spoken.texts)}
        self._inputs = dict(utterances(model, spoken.texts))
        self._listener: Optional[Listener] = None
        if spoken.asr_model_dir is not None:
            self._listener = Listener(spoken.asr_model_dir)
        said = {key: inputs["text"] for key, inputs in self._inputs.items()}
        self._said = {key: text for key, text in said.items() if isinstance(text, str)}
        if self._listener is not None and not any(map(plain, self._said.values())):
            raise PluginError(
                f"--asr_model_dir {spoken.asr_model_dir} needs texts that it can hear: "
                "give --data_path_and_name_and_type PATH,text,text"
            )
        ids = self._open(model).ids  # once: the texts' phonemes are not what is timed
        for inputs in self._inputs.values():
            inputs["text"] = ids(inputs["text"])
        recorder = Recorder(model)
        self._reference = self._speak(model, recorder)
        self._cer_fp32 = self._heard(self._reference)
        self.feeds: Mapping[str, List[Feeds]] = recorder.by_role

    def _heard(self, made: Mapping[str, Mapping[str, np.ndarray]]) -> Optional[float]:
        """Character error rate in percent of what was spoken, if a model listens."""
        if self._listener is None:
            return None
        return error_rate(
            (plain(self._hear(made[key])), plain(text))
            for key, text in self._said.items()
        )

    def _hear(self, made: Mapping[str, np.ndarray]) -> str:
        """The text that a model hears; nothing in what is no sound."""
        if "wav" not in made:
            raise PluginError(
                f"--asr_model_dir {self._spoken.asr_model_dir} listens to waveforms, "
                f"{self._model.path} makes features"
            )
        if not np.isfinite(made["wav"]).all():
            return ""
        rate = self._model.manifest.synthesis.sampling_rate
        return self._listener.hear(made["wav"], rate)

    def _open(self, bundle: Bundle, **session: Any) -> Text2Speech:
        return Text2Speech(
            bundle, session={"emulate": True, **session}, **self._options
        )

    def _speak(
        self, bundle: Bundle, recorder: Optional[Recorder] = None
    ) -> Dict[str, Mapping[str, np.ndarray]]:
        watched = {} if recorder is None else {"watch": recorder.keep}
        model = self._open(bundle, **watched)
        made = {}
        start = time.monotonic()
        for key in progress(self._inputs, len(self._inputs)):
            outputs = model(**self._inputs[key])
            names = [name for name in ("wav", "feat_gen") if name in outputs]
            made[key] = {name: outputs[name] for name in names[:1]}
            if recorder is not None:
                recorder.next_utterance()
        logger.info(
            "spoke %d utterances in %.0f s", len(made), time.monotonic() - start
        )
        return made

    def quality(self, bundle: Bundle) -> SpeechQuality:
        """Speak with a bundle what the fp32 one has spoken, and measure it."""
        measures: List[Measures] = []
        identical = 0
        rate = self._model.manifest.synthesis.sampling_rate
        spoken = self._speak(bundle)
        for key, made in spoken.items():
            expected = self._reference[key]
            identical += all(np.array_equal(made[n], expected[n]) for n in expected)
            if "wav" in expected:
                measures.append(_measured(expected["wav"], made["wav"], rate))
        mean = average(measures)
        return SpeechQuality(
            utterances=len(self._reference),
            identical=identical,
            mcd=mean.mcd,
            log_f0_rmse=mean.log_f0_rmse,
            cer_fp32=self._cer_fp32,
            cer=self._heard(spoken),
        )

    def speed(self, bundle: Bundle) -> Dict[str, Dict[str, float]]:
        """Seconds of the fp32 bundle and another, before the vocoder and in it.

        They take turns, utterance by utterance, after one for warming up, so that what
        else the machine does meets both.
        """
        sides = {"fp32": self._open(self._model), "quantized": self._open(bundle)}
        seconds = {side: {"acoustic": 0.0, "vocoder": 0.0} for side in sides}
        for i, inputs in enumerate(list(self._inputs.values())[:TIMED]):
            for side, model in sides.items():
                if i == 0:
                    model(**inputs)
                model(**inputs)
                for part, value in model.seconds.items():
                    seconds[side][part] += value
        return {
            side: {name: round(value, 4) for name, value in parts.items()}
            for side, parts in seconds.items()
        }
