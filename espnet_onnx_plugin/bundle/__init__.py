"""The bundle: what passes between the stages and what a machine needs to decode.

A bundle is a directory with one ``manifest.yaml``, the ``*.onnx`` graphs and the
tokenizer's files. It is complete and is never changed in place:
:func:`~espnet_onnx_plugin.bundle.store.new_bundle` writes aside and renames.
"""

from espnet_onnx_plugin.bundle.diarization import Diarization
from espnet_onnx_plugin.bundle.enhancement import Enhancement, FrameStream, Stft
from espnet_onnx_plugin.bundle.graph import Axis, File, Graph, State, Tensor
from espnet_onnx_plugin.bundle.manifest import FORMAT_VERSION, Manifest, Precision
from espnet_onnx_plugin.bundle.speech import BlockStream, ChunkStream, Framing, Speech
from espnet_onnx_plugin.bundle.store import (
    MANIFEST,
    Bundle,
    describe,
    describe_file,
    new_bundle,
    read_bundle,
    read_manifest,
    redescribe,
    sha256,
    weights_path,
    write_manifest,
)
from espnet_onnx_plugin.bundle.synthesis import Excitation, ScoreInputs, Synthesis
from espnet_onnx_plugin.bundle.text import Text, Transcript

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST",
    "Axis",
    "BlockStream",
    "Bundle",
    "ChunkStream",
    "Diarization",
    "Enhancement",
    "Excitation",
    "File",
    "FrameStream",
    "Framing",
    "Graph",
    "Manifest",
    "Precision",
    "ScoreInputs",
    "Speech",
    "State",
    "Stft",
    "Synthesis",
    "Tensor",
    "Text",
    "Transcript",
    "describe",
    "describe_file",
    "new_bundle",
    "read_bundle",
    "read_manifest",
    "redescribe",
    "sha256",
    "weights_path",
    "write_manifest",
]
