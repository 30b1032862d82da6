"""Models with several decoders, which recognize before they translate.

Recognition is a search of its own. The hidden states of the recognizing decoder for
each token of the best transcript are encoded, and the translating decoder reads those,
besides the speech or in its place.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.bundle.search import LabelSynchronous
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.encoder import Encoded
from espnet_onnx_plugin.runtime.core.opening import make_options
from espnet_onnx_plugin.runtime.core.session import Session
from espnet_onnx_plugin.runtime.core.values import pad
from espnet_onnx_plugin.runtime.recognition.engine import Stage
from espnet_onnx_plugin.runtime.recognition.options import DecodeOptions
from espnet_onnx_plugin.runtime.recognition.results import Recognized, SourceTranscript
from espnet_onnx_plugin.runtime.recognition.scoring import SearchBuilder
from espnet_onnx_plugin.runtime.search.beam import BeamSearch
from espnet_onnx_plugin.runtime.search.protocol import Hypothesis
from espnet_onnx_plugin.runtime.text.converter import TokenConverter

#: Begins the names of encoder outputs that recognition reads.
SRC = "asr_"

MD_ENCODER = "md_encoder"

#: Roles of the graphs of recognition by the names of its scorers.
_SRC_ROLES = {"decoder": "extra_asr_decoder", "lm": "src_lm"}


def _recognition(bundle: Bundle) -> LabelSynchronous:
    """The first search of a multi-decoder model, as the manifest describes it."""
    search = bundle.manifest.search
    if not isinstance(search, LabelSynchronous) or search.recognition is None:
        raise PluginError(f"{bundle.path} does not recognize; export the bundle again")
    return search.recognition


def recognizing_side(bundle: Bundle) -> Bundle:
    """A multi-decoder model's bundle as the one of its recognition.

    Raises:
        PluginError: if the manifest does not describe it.
    """
    manifest = bundle.manifest
    graphs = {"encoder": manifest.graphs["encoder"]}
    for role, name in _SRC_ROLES.items():
        for suffix in ("", "_memory"):
            if name + suffix in manifest.graphs:
                graphs[role + suffix] = manifest.graphs[name + suffix]
    manifest = dataclasses.replace(
        manifest,
        graphs=graphs,
        text=manifest.src_text or manifest.tokens,
        ngram=manifest.src_ngram,
        search=_recognition(bundle),
    )
    return Bundle(bundle.path, manifest)


def pre_beams(scorers: Collection[str]) -> bool:
    """Whether the CTC of a translation scores the best tokens of the others alone.

    ESPnet's keeps the tokens that all full scorers together like best, whatever the
    weight of the CTC. Where it has none, they all tie and it keeps any; here the CTC
    scores them all.
    """
    return any(name != "length_bonus" for name in scorers)


class MultiDecoderEncoder:
    """The graph that encodes the hidden states of recognition.

    Args:
        bundle: where the graph lies.
        device: where it runs.
    """

    def __init__(self, bundle: Bundle, device: Device):
        self._session = Session(bundle, MD_ENCODER, device)
        #: Seconds that the newest call spent.
        self.seconds = 0.0

    def __call__(self, hidden: Sequence[np.ndarray]) -> Encoded:
        """Encode the hidden states (tokens, dim) of each utterance."""
        start = time.perf_counter()
        if self._session.graph.batches:
            encoded = self.encode_together(hidden)
        else:
            encoded = Encoded.stack([self.encode_together([one]) for one in hidden])
        self.seconds = time.perf_counter() - start
        return encoded

    def encode_together(self, hidden: Sequence[np.ndarray]) -> Encoded:
        """Encode a batch in one call, whatever the manifest says of batches."""
        lengths = np.array([len(one) for one in hidden])
        feeds = {"hidden": pad(hidden), "hidden_lens": lengths}
        return Encoded(self._session.run(feeds, self._session.graph.outputs))


class Recognizer:
    """The first search of a multi-decoder model.

    Args:
        bundle: the model's.
        device: where its graphs run.
        options: decoding options of recognition, by name.

    Raises:
        PluginError: if an option cannot be met.
    """

    def __init__(self, bundle: Bundle, device: Device, options: Mapping[str, Any]):
        side = recognizing_side(bundle)
        self._described = _recognition(bundle)
        made = make_options(DecodeOptions, options)
        self._converter = TokenConverter(side)
        tokens = self._converter.token_list
        builder = SearchBuilder(side, device, self._described, made, tokens, True)
        scorers = builder.scorers(replays=True)
        #: The search; its hypotheses have hidden states.
        self.search = builder.build(
            BeamSearch, scorers, pre_beam=pre_beams(scorers), return_hs=True
        )
        if "decoder" not in self.search.scorers:
            raise PluginError(
                "asr_ctc_weight 1.0 leaves out the ASR sub-decoder, whose hidden "
                "states translation reads; set it below 1"
            )

    def stage(self, encoded: Encoded) -> Stage:
        """Search over the outputs of the model's encoder."""
        own = {k[len(SRC) :]: v for k, v in encoded.items() if k.startswith(SRC)}
        source = Encoded({**encoded, **own})
        found = self.search(source)
        if not all(found):
            raise PluginError(
                "recognition found no transcript: asr_minlenratio asks for more tokens "
                "than the utterance has frames"
            )
        search, made = self.search, {"encoder": encoded}
        return Stage(made, _SRC_ROLES, search, source, found, search.seconds)

    def transcript(self, hypothesis: Hypothesis) -> SourceTranscript:
        """The result of a hypothesis."""
        search = self._described
        left_out = {search.blank, search.sos, search.eos}
        token_int = [i for i in hypothesis.yseq if i not in left_out]
        result = Recognized.of(self._converter, token_int, hypothesis)
        return SourceTranscript(*result, np.stack(hypothesis.hs))
