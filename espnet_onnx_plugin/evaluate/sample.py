"""The sample of a test set on which decoders are timed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.io.data import Source
from espnet_onnx_plugin.runtime.io.lists import read_scp

# Lengths that ESPnet's data preparation leaves beside a wav.scp or feats.scp.
LENGTH_FILES = ("utt2num_samples", "feats_shape")


def choose_keys(lengths: Mapping[str, int], num_utts: int) -> list[str]:
    """Choose a sample of utterances.

    Args:
        lengths: Length of each utterance, in any one unit.
        num_utts: Size of the sample.

    Returns:
        Keys in the given order: the longest, and others at even distances.
    """
    if num_utts < 1:
        raise PluginError(f"--num_utts {num_utts}: must be 1 or more")
    if len(lengths) <= num_utts:
        return list(lengths)
    longest = max(lengths, key=lambda key: lengths[key])
    others = [key for key in lengths if key != longest]
    chosen = {others[i * len(others) // (num_utts - 1)] for i in range(num_utts - 1)}
    return [key for key in lengths if key in chosen or key == longest]


def read_lengths(source: Source) -> dict[str, int]:
    """Return each utterance's length: as prepared data says, or of what is read."""
    entries = source.entries()
    for path in map(Path(source.path).with_name, LENGTH_FILES):
        if path.is_file():
            known = read_scp(path)
            if known.keys() >= entries.keys():
                return {key: int(known[key].split(",")[0]) for key in entries}
    return {key: len(source.read(key, value).array) for key, value in entries.items()}
