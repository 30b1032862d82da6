"""Text to speech: what synthesizes with the bundles of task tts."""

import copy
import logging
import time
from pathlib import Path
from types import MappingProxyType
from typing import (
    Any,
    Dict,
    Iterator,
    Mapping,
    Optional,
    Sequence,
    Union,
)

import numpy as np

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.bundle.search import Frames
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.opening import Reopened, make_options, open_bundle
from espnet_onnx_plugin.runtime.core.releases import conventions
from espnet_onnx_plugin.runtime.core.session import Session, run
from espnet_onnx_plugin.runtime.synthesis.inputs import condition, finite, whole_numbers
from espnet_onnx_plugin.runtime.synthesis.options import TtsOptions
from espnet_onnx_plugin.runtime.synthesis.speaking import (
    attention_measures,
    speak_durations,
    speak_frames,
)
from espnet_onnx_plugin.runtime.synthesis.torch_rng import Noise
from espnet_onnx_plugin.runtime.synthesis.vocoder import Vocoder
from espnet_onnx_plugin.runtime.text.converter import TokenConverter

logger = logging.getLogger(__name__)


class _Sessions(Dict[str, Session]):
    """Graphs by role: those that every text needs, and others once they are asked for.

    Args:
        bundle: where they lie.
        device: where they run.
    """

    def __init__(self, bundle: Bundle, device: Device):
        self._bundle, self._device = bundle, device
        for role in ("encoder", "decoder", "postnet"):
            if role in self:
                self[role]

    def __contains__(self, role: object) -> bool:
        return role in self._bundle.manifest.graphs

    def __missing__(self, role: str) -> Session:
        self[role] = Session(self._bundle, role, self._device)
        return self[role]


class Text2Speech(Reopened):
    """A bundle's model and vocoder, as ``espnet2.bin.tts_inference.Text2Speech``.

    Args:
        model_dir: the bundle, or its directory.
        provider: ``cpu`` or ``cuda``.
        threads: CPU threads.
        session: the other attributes of
            :class:`~espnet_onnx_plugin.runtime.core.device.Device`, by name.
        options: ESPnet's decoding options, see :class:`TtsOptions`.

    Raises:
        PluginError: if the bundle cannot be read or an option cannot be met.

    Attributes:
        noise: what is drawn from, for one utterance after the other.
        seconds: of the newest call, by part: acoustic, vocoder.
        symbols: how many tokens the newest text had, with the one that ends it.
    """

    task = "tts"
    options_class = TtsOptions

    def __init__(
        self,
        model_dir: Union[str, Path, Bundle],
        provider: str = "cpu",
        threads: int = 1,
        session: Mapping[str, Any] = MappingProxyType({}),
        **options: Any,
    ):
        self.options = make_options(self.options_class, options)
        device = Device(provider, threads, **session)
        bundle = open_bundle(model_dir, device, self.task, type(self).__name__)
        self.bundle, self.device = bundle, device
        self.synthesis = bundle.manifest.synthesis
        self.search = bundle.manifest.search
        self.converter = TokenConverter(bundle)
        self._options()
        self._sessions = _Sessions(bundle, device)
        self.vocoder = Vocoder.open(bundle, device)
        self._gives_zeros = (
            self.search.model == "FastSpeech2"
            and conventions(bundle.manifest.espnet).fastspeech2_gives_zeros
        )
        self.noise = self._drawing(self.options.seed)
        self.seconds: Dict[str, float] = {}
        self.symbols = 0

    def _drawing(self, seed: int) -> Noise:
        return Noise(seed, mkl=self.search.mkl)

    def begin_job(self) -> None:
        """Draw on as ESPnet's command does, which seeds before it builds the model."""
        self.noise = self._drawing(self.options.seed)
        self.noise.skip(self.search.drawn)

    @property
    def fs(self) -> Optional[int]:
        """Sampling rate of the waveforms, or None where there are none."""
        return self.synthesis.sampling_rate

    @property
    def use_speech(self) -> bool:
        """Whether speech has to be given."""
        return self.options.use_teacher_forcing or "speech" in self.synthesis.reads

    @property
    def use_sids(self) -> bool:
        """Whether a speaker's id has to be given."""
        return "sids" in self.synthesis.reads

    @property
    def use_lids(self) -> bool:
        """Whether a language's id has to be given."""
        return "lids" in self.synthesis.reads

    @property
    def use_spembs(self) -> bool:
        """Whether a speaker's embedding has to be given."""
        return "spembs" in self.synthesis.reads

    @property
    def espnet_options(self) -> Dict[str, Any]:
        """The options that ESPnet gives to its model, by its names for them."""
        return self.options.of_espnet(self.search.options)

    def _options(self, conf: Optional[Mapping[str, Any]] = None) -> Dict[str, Any]:
        """The options of a call by name."""
        values = self.options.changed(conf).of_model(self.search.options)
        if values["use_teacher_forcing"] and not self.search.taught_by:
            raise PluginError(
                f"use_teacher_forcing: {self.bundle.path} cannot be taught, as ESPnet "
                "cannot do it with this model either; leave the option out"
            )
        return values

    def ids(self, text: Union[str, Sequence[int]]) -> np.ndarray:
        """Token ids (tokens,) of a text, or of such.

        Raises:
            PluginError: if there is no token, or the text cannot be turned into tokens.
        """
        ids = self.converter.text2ids(text) if isinstance(text, str) else text
        ids = whole_numbers("text", ids)
        if not len(ids):
            raise PluginError("the text has no token; give one that has")
        last = len(self.converter.token_list) - 1
        for strange in ids[(ids < 0) | (ids > last)][:1]:
            raise PluginError(f"text has token id {strange}, not one from 0 to {last}")
        return ids

    def __call__(
        self,
        text: Union[str, np.ndarray],
        speech: Optional[np.ndarray] = None,
        durations: Optional[np.ndarray] = None,
        spembs: Optional[np.ndarray] = None,
        sids: Optional[np.ndarray] = None,
        lids: Optional[np.ndarray] = None,
        decode_conf: Optional[Mapping[str, Any]] = None,
    ) -> Dict[str, np.ndarray]:
        """Synthesize one utterance.

        Args:
            text: a text, or token ids (tokens,).
            speech: (samples,) in the model's sampling rate, for its style or as the
                teacher.
            durations: frames of each symbol, in the place of predicted ones: of VITS,
                and of a taught model.
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
        start = time.perf_counter()
        made = self._acoustic(text, speech, durations, spembs, sids, lids, decode_conf)
        middle = time.perf_counter()
        feats, condition = self._for_vocoder(made)
        if self.vocoder is not None:
            made["wav"] = self.vocoder(feats, self.noise, condition)
        end = time.perf_counter()
        self.seconds = {"acoustic": middle - start, "vocoder": end - middle}
        return made

    def stream(
        self, *args: Any, chunk: int = 50, **kwargs: Any
    ) -> Iterator[np.ndarray]:
        """Synthesize one utterance, and give its waveform in pieces.

        Their concatenation is the waveform of :meth:`__call__`. A vocoder that is not
        convolutional, and Griffin-Lim, give one piece.

        Args:
            args, kwargs: as of :meth:`__call__`.
            chunk: frames of a piece.

        Raises:
            PluginError: if the model makes no waveforms.
        """
        if chunk < 1:
            raise PluginError(f"chunk {chunk} must be 1 frame or more")
        if self.vocoder is None:
            raise PluginError(f"{self.bundle.path} makes features, not waveforms")
        feats, condition = self._for_vocoder(self._acoustic(*args, **kwargs))
        yield from self.vocoder.stream(feats, self.noise, condition, chunk)

    def audio_seconds(self, made: Mapping[str, np.ndarray]) -> float:
        """Duration of what was made; of features, that of their waveform."""
        if self.fs is None:
            raise PluginError(f"{self.bundle.path} does not say how long a frame lasts")
        if "wav" in made:
            return len(made["wav"]) / self.fs
        return len(made["feat_gen"]) * self.synthesis.frame_shift / self.fs

    def first_audio_seconds(self, *args: Any, **kwargs: Any) -> float:
        """How long the first piece of :meth:`stream` takes, which is made for that.

        What the next call draws stays as it was.

        Args:
            args, kwargs: as of :meth:`stream`.
        """
        noise = copy.deepcopy(self.noise)
        start = time.perf_counter()
        next(self.stream(*args, **kwargs))
        seconds = time.perf_counter() - start
        self.noise = noise
        return seconds

    def _for_vocoder(self, made: Dict[str, np.ndarray]):
        """The features that become the waveform, and what conditions all of it.

        What is no output of ESPnet's is taken out of ``made``.
        """
        reads = self.synthesis.vocoder_reads
        if reads == "feat_gen_denorm" and self.options.prefer_normalized_feats:
            reads = "feat_gen"
        read = (made[reads], made.pop("condition", None))
        made.pop("feats", None)
        return read

    def _acoustic(
        self,
        text,
        speech=None,
        durations=None,
        spembs=None,
        sids=None,
        lids=None,
        decode_conf=None,
    ) -> Dict[str, np.ndarray]:
        """What is made before the vocoder's turn."""
        options = self._options(decode_conf)
        pool = self._inputs(text, speech, durations, spembs, sids, lids, options)
        self.symbols = len(pool["text"]) + 1
        if options["always_fix_seed"]:
            self.noise = self._drawing(options["seed"])
        if isinstance(self.search, Frames):
            teacher = pool["feats"] if options["use_teacher_forcing"] else None
            made = speak_frames(
                self._sessions, pool, self.search, options, self.noise, teacher
            )
        else:
            made = speak_durations(
                self._sessions,
                pool,
                self.search,
                options,
                self.noise,
                durations,
                self._gives_zeros,
            )
        if "att_w" in made:
            duration, focus_rate = attention_measures(made["att_w"])
            made.update(duration=duration, focus_rate=np.float32(focus_rate))
        return made

    def _inputs(
        self, text, speech, durations, spembs, sids, lids, options
    ) -> Dict[str, Any]:
        """What the graphs read that no graph makes."""
        given = dict(
            speech=speech, durations=durations, spembs=spembs, sids=sids, lids=lids
        )
        needed = set(self.synthesis.reads)
        if options["use_teacher_forcing"]:
            needed.update(self.search.taught_by)
        for name in given:
            if name in needed and given[name] is None:
                raise RuntimeError(f"Missing required argument: '{name}'")
        pool = {"text": self.ids(text)}
        for name in ("spembs", "sids", "lids"):
            if name in needed:
                pool[name] = condition(self.bundle.manifest, name, given[name])
        if "speech" in needed:
            pool.update(self._features(finite("speech", speech)))
        return pool

    def _features(self, speech: np.ndarray) -> Dict[str, np.ndarray]:
        """Speech (samples,) and its normalized features."""
        expected = self.bundle.manifest.speech
        if expected is None:
            return {"feats": speech}
        if len(speech) < expected.min_length:
            raise PluginError(
                f"speech of {len(speech)} samples is too short, the model needs "
                f"{expected.min_length}"
            )
        return {"speech": speech, **run(self._sessions["frontend"], {"speech": speech})}
