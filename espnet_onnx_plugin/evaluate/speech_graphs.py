"""How far a rewritten text-to-speech bundle is from the one it was made from."""

import logging
from typing import Any, Dict, Mapping, Optional

from espnet_onnx_plugin.bundle import Bundle, Graph
from espnet_onnx_plugin.evaluate.graphs import Comparison, difference
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.session import Session, Value
from espnet_onnx_plugin.runtime.synthesis.inputs import Texts, named, utterances
from espnet_onnx_plugin.runtime.tts import Text2Speech

logger = logging.getLogger(__name__)

#: A waveform is the same up to this difference, relative to its largest value.
SAME = 1e-3

#: Most frames for each token of a made-up text, which a model need not ever end.
MAXLENRATIO = 3.0


def check_options(texts: Optional[Texts]) -> Dict[str, Any]:
    """Decoding options of a check: every utterance draws the same noise again."""
    made_up = {"maxlenratio": MAXLENRATIO} if texts is None else {}
    return dict(always_fix_seed=True, **made_up)


class _Graphs:
    """Runs each graph of two bundles on the same inputs, as one of them is fed."""

    def __init__(self, reference: Bundle, other: Bundle):
        self._roles = {
            graph.file.name: role for role, graph in reference.manifest.graphs.items()
        }
        self._sessions = {
            role: [Session(bundle, role, Device()) for bundle in (reference, other)]
            for role in reference.manifest.graphs
        }
        self.differences: Dict[str, float] = {}
        self.calls: Dict[str, int] = {}

    def watch(self, graph: Graph, feeds: Mapping[str, Value]) -> None:
        """Compare what a graph makes of what it is about to be fed."""
        role = self._roles[graph.file.name]
        call = self.calls[role] = self.calls.get(role, 0) + 1
        if call & (call - 1):
            return  # steps 1, 2, 4, 8, ... stand for all
        expected, made = (s.run(feeds, graph.outputs) for s in self._sessions[role])
        for name in graph.outputs:
            figure = difference(made[name], expected[name])
            self.differences[role] = max(self.differences.get(role, 0.0), figure)


def compare_speech(
    reference: Bundle, other: Bundle, texts: Optional[Texts]
) -> Comparison:
    """Speak the same with two bundles and the same noise, on the CPU.

    Args:
        reference: the bundle that counts as right.
        other: with the same graphs.
        texts: what is spoken; made-up texts where it is None.
    """
    graphs = _Graphs(reference, other)
    options = check_options(texts)
    left = Text2Speech(reference, session={"watch": graphs.watch}, **options)
    right = Text2Speech(other, **options)
    count = identical = 0
    for key, inputs in utterances(reference, texts):
        logger.info("comparing on %s", key)
        graphs.calls.clear()
        with named(key):
            expected, made = left(**inputs), right(**inputs)
        names = [name for name in ("wav", "feat_gen") if name in expected]
        count += 1
        identical += all(difference(made[n], expected[n]) <= SAME for n in names)
    kind = "made-up" if texts is None else "real"
    left_out = [
        role for role in reference.manifest.graphs if role not in graphs.differences
    ]
    return Comparison(count, kind, identical, graphs.differences, left_out)
