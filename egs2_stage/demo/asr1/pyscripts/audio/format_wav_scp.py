#!/usr/bin/env python3
"""List a set's audio for ESPnet, converting files that are in another format."""

import argparse
import sys
from pathlib import Path

import humanfriendly
import soundfile


def format_audio(path, audio_format, fs, output_dir):
    """Return (path, number of samples) of a file in the wanted format.

    A file with the wanted suffix stays where it is, as in ESPnet; another is
    converted into output_dir/data.

    Raises:
        ValueError: If the file cannot be read or has another sampling rate.
    """
    try:
        info = soundfile.info(path)
    except soundfile.LibsndfileError as e:
        raise ValueError(f"cannot read {path}: {e}") from e
    if info.samplerate != fs:
        raise ValueError(f"{path} is at {info.samplerate} Hz, not {fs} Hz")
    if path.suffix != f".{audio_format}":
        target = output_dir / "data" / f"{path.stem}.{audio_format}"
        target.parent.mkdir(exist_ok=True)
        soundfile.write(target, *soundfile.read(path, dtype="int16"))
        path = target
    return path, info.frames


def get_parser():
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fs", type=humanfriendly.parse_size, required=True)
    parser.add_argument("--audio_format", choices=["wav", "flac"], required=True)
    parser.add_argument("--scp", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    return parser


def main(cmd=None):
    """Write output_dir/wav.scp and output_dir/utt2num_samples."""
    args = get_parser().parse_args(cmd)
    paths, lengths = [], []
    for line in args.scp.read_text().splitlines():
        key, path = line.split(maxsplit=1)
        try:
            path, frames = format_audio(
                Path(path), args.audio_format, args.fs, args.output_dir
            )
        except ValueError as e:
            sys.exit(f"Error: {key}: {e}")
        paths.append(f"{key} {path}\n")
        lengths.append(f"{key} {frames}\n")
    (args.output_dir / "wav.scp").write_text("".join(paths))
    (args.output_dir / "utt2num_samples").write_text("".join(lengths))


if __name__ == "__main__":
    main()
