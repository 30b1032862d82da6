"""The bundle: what passes between the stages and what a machine needs to decode.

A bundle is a directory with one ``manifest.yaml``, the ``*.onnx`` graphs and the
tokenizer's files. It is complete and is never changed in place: :func:`new_bundle`
writes aside and renames.
"""

import contextlib
import dataclasses
import hashlib
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import (
    Any,
    Dict,
    Iterator,
    Literal,
    Mapping,
    Optional,
    Tuple,
    Union,
    get_args,
)

import yaml

from espnet_onnx_plugin.errors import PluginError

FORMAT_VERSION = 4
MANIFEST = "manifest.yaml"

#: Of a bundle: as exported, products and convolutions in 8-bit integers, weights in
#: blocks of 8 or 4 bits, half floats.
Precision = Literal["fp32", "int8", "weight8", "weight4", "fp16"]

#: An axis of a tensor: its size, or the name of a size that varies.
Axis = Union[int, str]


@dataclass(frozen=True)
class Tensor:
    """A named input or output of a graph: dtype as numpy names it, and axes."""

    dtype: str
    axes: Tuple[Axis, ...]


@dataclass(frozen=True)
class State:
    """A recurrent state of a step graph.

    The graph has an input ``name`` and an output ``next_<name>``. The state starts as
    zeros in which an axis named ``rows`` has size 1, an axis named ``nodes`` size 0,
    and any other named one the size that it has in the graph's memory.
    """

    dtype: str
    axes: Tuple[Axis, ...]


@dataclass(frozen=True)
class File:
    """A file of a bundle: its name below the bundle, bytes, and digest."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Graph:
    """One ONNX graph of a bundle.

    Attributes:
        file: the graph.
        weights: its tensors, in a file that is mapped into memory; None where the graph
            has no large ones.
        inputs, outputs: the tensors that are not states, by name.
        states: the recurrent states, by name.
        batches: whether an utterance gets the same result in a batch as alone.
    """

    file: File
    weights: Optional[File]
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    states: Mapping[str, State] = field(default_factory=dict)
    batches: bool = True


@dataclass(frozen=True)
class Speech:
    """What the encoder's input has to be.

    Attributes:
        kind: ``waveform`` or ``features``.
        sampling_rate: samples a second; for features, frames a second.
        feature_dim: size of a feature vector; 0 for waveforms.
        min_length: the shortest input (samples or frames) that the encoder can take;
            ESPnet answers shorter ones with a placeholder.
        volume_normalize: peak that ESPnet's preprocessor scales to, or None.
        average_channels: whether several channels are averaged; else the first is
            taken.
        frame_shift: samples or frames of the input from one frame of the encoder's
            output to the next; None where it has no CTC or its frames have no time.
    """

    kind: str
    sampling_rate: int
    feature_dim: int
    min_length: int
    volume_normalize: Optional[float] = None
    average_channels: bool = False
    frame_shift: Optional[float] = None

    def seconds(self, length: int) -> float:
        """Duration of an input of ``length`` samples or frames."""
        return length / self.sampling_rate


@dataclass(frozen=True)
class Text:
    """Tokens and how they become text, or text them.

    Attributes:
        token_type: char, bpe, word, phn, whisper_en, whisper_multilingual, hugging_face
            or None, as in ESPnet.
        token_list: file of the tokens, one a line.
        bpemodel: file of the sentencepiece model, or None.
        tokenizer: file of the tokenizer of Whisper or of a hub, or None.
        clean_up: whether its texts lose the spaces before punctuation.
        cleaner: ESPnet's names of what is applied to a text before it becomes tokens,
            in this order.
        g2p: ESPnet's name of what makes phonemes of a text; None: spaces part them.
            Of token type phn alone.
        non_linguistic_symbols: those that are one token, of token type char alone.
    """

    token_type: Optional[str]
    token_list: str
    bpemodel: Optional[str] = None
    tokenizer: Optional[str] = None
    clean_up: bool = False
    cleaner: Tuple[str, ...] = ()
    g2p: Optional[str] = None
    non_linguistic_symbols: Tuple[str, ...] = ()


@dataclass(frozen=True)
class Synthesis:
    """What a text-to-speech model makes, and reads besides text.

    Attributes:
        sampling_rate: samples a second of its waveforms; None where ESPnet names none.
        frame_shift: samples of the waveform from one frame of the features to the next;
            None where ESPnet makes no waveform of them.
        vocoder_reads: the output of the decoder or the postnet that becomes a waveform.
        vocoder_context: frames before and after a frame that the vocoder's graph sees
            when it makes the frame's samples; None: every one of the utterance.
        griffin_lim: settings of the spectrogram (n_fft, n_shift, win_length, window,
            fs, n_mels, fmin, fmax), where no graph makes the waveform.
        reads: of spembs, sids, lids and speech, those that the model needs.
        speakers, languages: how many ids of each it knows, from 0 on; None where it
            reads none, or in bundles of before this was noted.
    """

    sampling_rate: Optional[int]
    frame_shift: Optional[int]
    vocoder_reads: str
    vocoder_context: Optional[Tuple[int, int]] = None
    griffin_lim: Optional[Mapping[str, Any]] = None
    reads: Tuple[str, ...] = ()
    speakers: Optional[int] = None
    languages: Optional[int] = None


@dataclass(frozen=True)
class Manifest:
    """The content of ``manifest.yaml``.

    Attributes:
        task: name of the recipe's driver: asr.
        graphs: by role: frontend, encoder, decoder_memory, decoder, lm;
            mask_decoder_memory and mask_decoder in the place of decoders; of
            text-to-speech frontend, encoder, decoder, postnet, vocoder, and alignment
            and energy of speech that teaches.
        text: output of the model, of text-to-speech its input.
        speech: its input; None where it reads no speech.
        transcript: words of the transcript that the model also reads, or None.
        search: ids and defaults that the search needs (sos, eos, blank, mask, ...).
        ngram: file of a KenLM model, or None.
        src_text, src_ngram: the same of the source language, where a translation model
            recognizes before it translates.
        precision: of the arithmetic that its graphs are made for; some of their layers
            may be in a higher one.
        source: what the bundle was made from: checkpoint, versions, parent.
        checks: the figures that its checks measured.
    """

    task: str
    graphs: Mapping[str, Graph]
    speech: Optional[Speech]
    text: Text
    search: Mapping[str, Any]
    synthesis: Optional[Synthesis] = None
    ngram: Optional[str] = None
    transcript: Optional[Text] = None
    src_text: Optional[Text] = None
    src_ngram: Optional[str] = None
    precision: Precision = "fp32"
    source: Mapping[str, Any] = field(default_factory=dict)
    checks: Mapping[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @property
    def espnet(self) -> str:
        """Release of the ESPnet that exported the bundle, e.g. 202511.

        Decoding follows its search, see :mod:`espnet_onnx_plugin.runtime.releases`.
        """
        return str(self.source.get("espnet", "202511"))

    @property
    def reduced_range(self) -> bool:
        """Whether int8 weights have 7 bits, whose products saturate nowhere."""
        return bool(self.source.get("made_by", {}).get("reduce_range", False))

    @property
    def speakers(self) -> Optional[int]:
        """Number of speakers that the encoder tells apart; None: it has no such axis.

        Its outputs are (utterances, speakers, ...) then.
        """
        _, *speakers, _, _ = self.graphs["encoder"].outputs["encoder_out"].axes
        return int(speakers[0]) if speakers else None


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk."""

    path: Path
    manifest: Manifest

    def file(self, name: str) -> Path:
        """Path of a file of the bundle."""
        return self.path / name

    @property
    def size(self) -> int:
        """Bytes of all files of the bundle."""
        return sum(f.stat().st_size for f in self.path.rglob("*") if f.is_file())


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def weights_path(graph: Path) -> Path:
    """Where the weights of the graph that lies at ``graph`` are."""
    return graph.with_suffix(".weights")


def _file(path: Path) -> File:
    return File(path.name, path.stat().st_size, sha256(path))


def describe(
    path: Path,
    inputs: Mapping[str, Tensor],
    outputs: Mapping[str, Tensor],
    states: Mapping[str, State],
) -> Graph:
    """The manifest's entry for a graph that lies at ``path``, weights beside it."""
    weights = weights_path(path)
    return Graph(
        file=_file(path),
        weights=_file(weights) if weights.exists() else None,
        inputs=dict(inputs),
        outputs=dict(outputs),
        states=dict(states),
    )


def redescribe(path: Path, graph: Graph) -> Graph:
    """The entry of a graph that was rewritten: same tensors, another file."""
    new = describe(path, graph.inputs, graph.outputs, graph.states)
    return dataclasses.replace(new, batches=graph.batches)


def _plain(value: Any) -> Any:
    """Dataclasses and tuples to what YAML's safe dumper takes."""
    if dataclasses.is_dataclass(value):
        return _plain(
            {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        )
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    return value


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(
    list,
    lambda dumper, data: dumper.represent_sequence(
        "tag:yaml.org,2002:seq", data, flow_style=True
    ),
)


def _parse(content: Any) -> Manifest:
    def tensors(entries: Mapping[str, Any], cls: type) -> Dict[str, Any]:
        return {
            name: cls(dtype=e["dtype"], axes=tuple(e["axes"]))
            for name, e in entries.items()
        }

    def text(entry: Mapping[str, Any]) -> Text:
        return Text(
            **{k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
        )

    fields = dict(content)
    fields["graphs"] = {
        role: Graph(
            **{
                **entry,
                "file": File(**entry["file"]),
                "weights": entry["weights"] and File(**entry["weights"]),
                "inputs": tensors(entry["inputs"], Tensor),
                "outputs": tensors(entry["outputs"], Tensor),
                "states": tensors(entry["states"], State),
            }
        )
        for role, entry in fields["graphs"].items()
    }
    if fields["speech"]:
        fields["speech"] = Speech(**fields["speech"])
    if fields["synthesis"]:
        synthesis = dict(fields["synthesis"])
        for name in ("vocoder_context", "reads"):
            if synthesis[name] is not None:
                synthesis[name] = tuple(synthesis[name])
        fields["synthesis"] = Synthesis(**synthesis)
    for name in ("text", "src_text", "transcript"):
        fields[name] = text(fields[name]) if fields.get(name) else None
    # Older bundles have it among the figures of the quantization alone.
    figures = fields.get("checks", {}).get("quantize", {})
    fields.setdefault("precision", figures.get("precision", "fp32"))
    if fields["precision"] not in get_args(Precision):
        raise KeyError(fields["precision"])
    return Manifest(**fields)


def read_manifest(path: Union[str, Path]) -> Manifest:
    """Read what a bundle says of itself, without a look at its other files.

    Raises:
        PluginError: if the directory is no bundle, or is of another format.
    """
    path = Path(path)
    manifest_file = path / MANIFEST
    if not manifest_file.is_file():
        raise PluginError(f"{path} is not a bundle: it has no {MANIFEST}; export it")
    try:
        content = yaml.load(
            manifest_file.read_text(encoding="utf-8"),
            Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader),
        )
        version = content["format_version"]
        if version == FORMAT_VERSION:
            manifest = _parse(content)
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
        raise PluginError(f"{manifest_file} is damaged; export the bundle again")
    if version != FORMAT_VERSION:
        raise PluginError(
            f"{manifest_file} has format {version}, this version reads "
            f"{FORMAT_VERSION}; export the bundle again"
        )
    return manifest


def read_bundle(path: Union[str, Path]) -> Bundle:
    """Open a bundle and check that its files are the ones that were written.

    Raises:
        PluginError: if the directory is no bundle, is of another format, or a file is
            missing, truncated or changed.
    """
    path = Path(path)
    manifest = read_manifest(path)
    for graph in manifest.graphs.values():
        for expected in (graph.file, graph.weights):
            if expected is not None:
                _verify(path / expected.name, expected)
    files = [manifest.ngram, manifest.src_ngram]
    for text in (manifest.text, manifest.src_text, manifest.transcript):
        if text is not None:
            files += [text.token_list, text.bpemodel, text.tokenizer]
    for name in files:
        if name is not None and not (path / name).is_file():
            raise PluginError(f"{path / name} is missing; copy the bundle again")
    return Bundle(path, manifest)


def _verify(file: Path, expected: File) -> None:
    if not file.is_file():
        raise PluginError(f"{file} is missing; copy the bundle again, or export it")
    if file.stat().st_size != expected.size or sha256(file) != expected.sha256:
        raise PluginError(
            f"{file} is truncated or changed (its size or sha256 is not the "
            "manifest's); copy the bundle again, or export it"
        )


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write ``manifest.yaml`` into a directory that :func:`new_bundle` gave."""
    with open(path / MANIFEST, "w", encoding="utf-8") as f:
        yaml.dump(
            _plain(manifest), f, Dumper=_Dumper, sort_keys=False, allow_unicode=True
        )


@contextlib.contextmanager
def new_bundle(output_dir: Union[str, Path]) -> Iterator[Path]:
    """Give a directory to write a bundle in; it becomes ``output_dir`` at the end.

    On an exception the directory is removed and an older ``output_dir`` stays as it
    was. An ``output_dir`` that exists and is no bundle is refused.
    """
    output_dir = Path(output_dir)
    if output_dir.exists() and not (output_dir / MANIFEST).is_file():
        if not output_dir.is_dir() or any(output_dir.iterdir()):
            raise PluginError(
                f"{output_dir} exists and is not a bundle; remove it or give another "
                "--output_dir"
            )
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{output_dir.name}.", dir=output_dir.parent))
    try:
        yield work
        work.chmod(0o755)  # mkdtemp's is private; the recipe's are not
        if output_dir.exists():
            old = Path(tempfile.mkdtemp(prefix=".old.", dir=output_dir.parent))
            output_dir.rename(old / "bundle")
            work.rename(output_dir)
            shutil.rmtree(old)
        else:
            work.rename(output_dir)
    finally:
        if work.exists():
            shutil.rmtree(work)
