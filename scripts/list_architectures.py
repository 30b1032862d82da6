#!/usr/bin/env python3
"""List the distinct architectures among the training configurations of an ESPnet.

Usage: scripts/list_architectures.py [--espnet_root CHECKOUT]   (needs the extra export)

With a checkout, reads every training configuration of
egs2/*/{asr1,st1,slu1,s2t1,lm1,tts1,svs1,enh1,tse1,enh_asr1,diar1,enh_diar1}, takes
away what is not architecture (optimizers, dropout, sizes), builds each distinct one at
tiny size with the installed ESPnet, and writes tests/data/architectures.yaml, which
tests/test_sweep.py exports and decodes with. Then, for the list as it stands, exports
and decodes as that test does, and prints by task how much is covered.

Two configurations are one architecture where all that differs are sizes (of layers,
kernels and transforms, numbers of layers and heads), settings of the training alone
(dropout, losses, masking) and defaults that one of them writes out. Every other setting
tells them apart, known or not. That is half of what differs as text: the asr1
configurations of June 2026 that build are 119 texts without the training's settings, 72
without sizes as well, and 54 with defaults filled in and without kernel sizes.

Text-to-speech models have the features that the options of tts.sh give them: a linear
spectrogram for VITS, log Mel filterbanks with global statistics for the others.
Speakers, languages and embeddings are those of the configuration; ESPnet ignores
--use_sid, --use_lid and --use_spk_embed where it names none. Singers have log Mel
filterbanks, and scores by frames where the model has no durations of its own.

What builds depends on what is installed. The list that is kept was made with ESPnet's
master, s3prl, transformers, Whisper and longformer.
"""

import argparse
from pathlib import Path

import yaml
from sweeping.architectures import collect
from sweeping.build import why_not_built
from sweeping.coverage import measure, table

LIST = Path(__file__).parents[1] / "tests" / "data" / "architectures.yaml"


def get_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--espnet_root", type=Path, help="checkout of ESPnet to read")
    parser.add_argument("--output", type=Path, default=LIST, help="the list")
    return parser


def main(cmd=None) -> None:
    """Write the list where a checkout is given; print the coverage."""
    args = get_parser().parse_args(cmd)
    if args.espnet_root is not None:
        architectures = collect(args.espnet_root)
        for architecture in architectures:
            reason = why_not_built(architecture)
            if reason is not None:
                architecture["excluded"] = reason
        args.output.write_text(
            yaml.safe_dump(
                architectures, sort_keys=False, width=88, default_flow_style=None
            ),
            encoding="utf-8",
        )
    architectures = yaml.safe_load(args.output.read_text(encoding="utf-8"))
    print(table(architectures, measure(architectures)))


if __name__ == "__main__":
    main()
