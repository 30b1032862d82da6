#!/usr/bin/env python3
"""Synthesise the corpus of the demo recipe: espeak-ng speech plus numpy noise.

Every random choice is drawn from a generator seeded by (set, utterance number), so
that a set is the same whichever other sets are made and however many jobs make it.
"""

import argparse
import functools
import io
import itertools
import multiprocessing
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import lfilter, resample_poly

FS = 16000
ESPEAK_FS = 22050

# Speaker prefix -> espeak-ng voice. sclite takes what stands before the first "-" for
# the speaker, so the prefixes are plain.
ACCENTS = {
    "us": "en-us",
    "gb": "en-gb",
    "rp": "en-gb-x-rp",
    "sc": "en-gb-scotland",
    "la": "en-gb-x-gbclan",
    "wm": "en-gb-x-gbcwmd",
    "ca": "en-029",
}
VARIANTS = ["m1", "m2", "m3", "m4", "m5", "m6", "m7", "f1", "f2", "f3", "f4", "f5"]
PAIRS = list(itertools.product(ACCENTS, VARIANTS))
# One pair of accent and variant in five is never heard in training.
UNSEEN = PAIRS[::5]
SEEN = [pair for pair in PAIRS if pair not in UNSEEN]


@dataclass(frozen=True)
class DataSet:
    """Properties by which one set differs from another.

    Attributes:
        seed: First part of the seed of every utterance of the set.
        size: Number of utterances.
        speakers: Pairs of accent and variant to draw from.
        snr: Lowest and highest signal-to-noise ratio, in dB.
        distorted: Share of the utterances sent through a narrow band or a room.
        spelling: Whether to keep sentences that spell a word, by far the hardest.
    """

    seed: int
    size: int
    speakers: list
    snr: tuple
    distorted: float
    spelling: bool


SETS = {
    "train": DataSet(1, 4500, SEEN, (2.0, 30.0), 0.3, True),
    "valid": DataSet(2, 120, UNSEEN, (2.0, 25.0), 0.3, True),
    "test_clean": DataSet(3, 80, UNSEEN, (15.0, 30.0), 0.0, False),
    "test_noisy": DataSet(4, 80, UNSEEN, (5.0, 15.0), 0.3, False),
}
LM_SEED, LM_SIZE = 5, 30000

DIGITS = "ZERO ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE".split()
HOURS = DIGITS[1:] + ["TEN", "ELEVEN", "TWELVE"]
TENS = ["TWENTY", "THIRTY", "FORTY", "FIFTY"]
MINUTES = ["FIVE", "TEN", "TWENTY", "TWENTY FIVE"]
NAMES = """ADAM ALICE AMY ANNA BEN BETTY BRIAN CARL CLARA DAN DIANA EDGAR EMMA ERIC EVA
FRANK FRED GEMMA GRACE GUY HARRY HELEN HUGO IAN IDA IRIS JACK JANE JOAN KATE KEITH LEO
LILY LUCY MARK MARY MAX NINA NORA OLGA OSCAR OWEN PAUL PETER QUINN RACHEL ROSE RUTH SAM
SARAH STELLA TED TINA TOM URSULA VERA VICTOR WALTER WENDY XAVIER YVONNE ZOE""".split()
CITIES = """BATH BOSTON BRISTOL CAIRO CORK DENVER DOVER DUBLIN GENEVA HULL KYOTO LEEDS
LIMA LONDON MADRID MILAN OSLO OXFORD PARIS PERTH PRAGUE QUEBEC ROME SEOUL SYDNEY TOKYO
VIENNA WARSAW YORK ZURICH""".split()
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def clock(rng):
    """Return a time of day in words."""
    hour = rng.choice(HOURS)
    form = rng.integers(6)
    if form == 0:
        return f"HALF PAST {hour}"
    if form == 1:
        return f"QUARTER {rng.choice(['PAST', 'TO'])} {hour}"
    if form == 2:
        return f"{rng.choice(MINUTES)} {rng.choice(['PAST', 'TO'])} {hour}"
    if form == 3:
        return f"{hour} {rng.choice(TENS)} {rng.choice(DIGITS[1:])}"
    return f"{hour} {rng.choice(TENS)} {rng.choice(['A M', 'P M'])}"


def digits(rng, low, high):
    """Return between low and high digits in words."""
    return " ".join(rng.choice(DIGITS, rng.integers(low, high + 1)))


def spelled(rng):
    """Return the letters of a name or, half of the time, any letters."""
    if rng.integers(2):
        return " ".join(rng.choice(NAMES + CITIES))
    return " ".join(rng.choice(list(LETTERS), rng.integers(2, 6)))


def sentence(rng):
    """Return one sentence of the demo's grammar, in capitals."""
    name, city = rng.choice(NAMES), rng.choice(CITIES)
    forms = [
        lambda: f"CALL {digits(rng, 3, 5)}",
        lambda: f"ROOM {digits(rng, 2, 3)} PLEASE",
        lambda: f"{name} ON EXTENSION {digits(rng, 2, 4)}",
        lambda: digits(rng, 3, 6),
        lambda: f"FLIGHT {spelled(rng)} {digits(rng, 1, 3)}",
        lambda: f"MY NAME IS {name}",
        lambda: f"SPELL {spelled(rng)}",
        lambda: spelled(rng),
        lambda: spelled(rng),
        lambda: f"WAKE {name} AT {clock(rng)}",
        lambda: f"THE TRAIN TO {city} LEAVES AT {clock(rng)}",
        lambda: f"MEET {name} IN {city}",
        lambda: f"SET AN ALARM FOR {clock(rng)}",
        lambda: f"IT IS {clock(rng)}",
    ]
    return forms[rng.integers(len(forms))]()


def spells(text):
    """Return whether a sentence spells a word."""
    first = text.split()[0]
    return len(first) == 1 or first in ("SPELL", "FLIGHT")


def speak(text, voice, rng):
    """Return the speech of a text as float64 samples at 16 kHz, peak 1.

    Raises:
        RuntimeError: If espeak-ng fails.
    """
    # "a" inside a sentence would be read as the article: give the letter's phonemes.
    spoken = ["[[eI]]" if word == "A" else word.lower() for word in text.split()]
    command = ["espeak-ng", "-v", voice, "--stdout"]
    command += ["-s", str(rng.integers(150, 211)), "-p", str(rng.integers(25, 80))]
    command += ["-g", str(rng.integers(0, 4)), " ".join(spoken)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode != 0 or not done.stdout:
        message = done.stderr.decode(errors="replace").strip()
        raise RuntimeError(f"espeak-ng -v {voice} failed: {message}")
    # A WAV from a pipe has no true length in its header: read what follows it.
    wave, fs = soundfile.read(
        io.BytesIO(done.stdout[44:]),
        format="RAW",
        subtype="PCM_16",
        samplerate=ESPEAK_FS,
        channels=1,
    )
    voiced = np.flatnonzero(np.abs(wave) > 1e-3)
    wave = wave[voiced[0] : voiced[-1] + 1]
    wave = resample_poly(wave, FS, fs)
    return wave / np.abs(wave).max()


def colour(rng, size, slope):
    """Return noise whose power falls by slope x 3 dB per octave."""
    spectrum = np.fft.rfft(rng.standard_normal(size))
    frequency = np.maximum(np.fft.rfftfreq(size, 1 / FS), 50.0)
    return np.fft.irfft(spectrum * frequency ** (-slope / 2), size)


def babble(rng, wave):
    """Return noise with the spectrum of the speech and the rhythm of syllables."""
    magnitude = np.abs(np.fft.rfft(wave))
    phase = np.exp(2j * np.pi * rng.random(len(magnitude)))
    noise = np.fft.irfft(magnitude * phase, len(wave))
    time = np.arange(len(wave)) / FS
    rhythm = np.sin(2 * np.pi * rng.uniform(2, 6) * time + rng.uniform(0, 6))
    return noise * (1 + 0.9 * rhythm)


def hum(rng, size):
    """Return the hum of the mains with a hiss."""
    time = np.arange(size) / FS
    base = rng.choice([50.0, 60.0]) * rng.integers(1, 4)
    tones = [np.sin(2 * np.pi * base * k * time) / k for k in range(1, 9)]
    return np.sum(tones, axis=0) + 0.3 * rng.standard_normal(size)


def room(rng, wave):
    """Return the speech in a room that echoes for 0.1 to 0.35 s."""
    length = int(rng.uniform(0.1, 0.35) * FS)
    decay = np.exp(-6.9 * np.arange(length) / length)
    response = 0.15 * rng.standard_normal(length) * decay
    response[0] = 1.0
    size = len(wave) + length
    spectrum = np.fft.rfft(wave, size) * np.fft.rfft(response, size)
    return np.fft.irfft(spectrum, size)


def telephone(wave):
    """Return the speech without what lies below 300 Hz and above 3400 Hz."""
    spectrum = np.fft.rfft(wave)
    frequency = np.fft.rfftfreq(len(wave), 1 / FS)
    spectrum[(frequency < 300) | (frequency > 3400)] = 0
    return np.fft.irfft(spectrum, len(wave))


def corrupt(wave, dataset, rng):
    """Return the speech between pauses, distorted, with noise, at some level."""
    if rng.random() < dataset.distorted:
        wave = room(rng, wave) if rng.integers(2) else telephone(wave)
    pause = rng.integers(int(0.1 * FS), int(0.25 * FS), 2)
    power = np.mean(wave**2)
    wave = np.pad(wave, pause)
    noise = [
        lambda: colour(rng, len(wave), rng.uniform(0, 2)),
        lambda: babble(rng, wave),
        lambda: hum(rng, len(wave)),
        lambda: lfilter([1.0], [1.0, -1.6, 0.9], rng.standard_normal(len(wave))),
    ][rng.integers(4)]()
    snr = rng.uniform(*dataset.snr)
    noise *= np.sqrt(power / np.mean(noise**2) / 10 ** (snr / 10))
    wave = wave + noise
    return wave / np.abs(wave).max() * rng.uniform(0.2, 0.9)


def make_utterance(name, wav_dir, number):
    """Write one utterance's WAV file and return (id, speaker, path, text)."""
    dataset = SETS[name]
    rng = np.random.default_rng([dataset.seed, number])
    text = sentence(rng)
    while spells(text) and not dataset.spelling:
        text = sentence(rng)
    accent, variant = dataset.speakers[rng.integers(len(dataset.speakers))]
    speaker = accent + variant
    wave = speak(text, f"{ACCENTS[accent]}+{variant}", rng)
    key = f"{speaker}-{name}-{number:04d}"
    path = wav_dir / name / f"{key}.wav"
    soundfile.write(path, corrupt(wave, dataset, rng), FS, subtype="PCM_16")
    return key, speaker, path, text


def make_set(name, data_dir, nj):
    """Write data_dir/wav/NAME/*.wav and the Kaldi files of data_dir/NAME."""
    wav_dir = data_dir / "wav"
    (wav_dir / name).mkdir(parents=True, exist_ok=True)
    with multiprocessing.Pool(nj) as pool:
        task = functools.partial(make_utterance, name, wav_dir)
        rows = sorted(pool.imap_unordered(task, range(SETS[name].size), chunksize=8))

    speakers = {}
    for key, speaker, _, _ in rows:
        speakers.setdefault(speaker, []).append(key)
    (data_dir / name).mkdir(parents=True, exist_ok=True)
    for file, lines in {
        "text": [f"{key} {text}" for key, _, _, text in rows],
        "utt2spk": [f"{key} {speaker}" for key, speaker, _, _ in rows],
        "spk2utt": [f"{spk} {' '.join(keys)}" for spk, keys in speakers.items()],
        "wav.scp": [f"{key} {path}" for key, _, path, _ in rows],
    }.items():
        (data_dir / name / file).write_text("\n".join(lines) + "\n")


def make_lm_text(path):
    """Write the sentences that the language model is trained on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as f:
        for number in range(LM_SIZE):
            text = sentence(np.random.default_rng([LM_SEED, number]))
            print(f"lm-{number:05d} {text}", file=f)


def get_parser():
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(
        description="Synthesise data sets by espeak-ng, with noise",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data_dir", type=Path, default=Path("data"))
    parser.add_argument("--nj", type=int, default=2, help="parallel processes")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    return parser


def main(cmd=None):
    """Make the sets named on the command line."""
    args = get_parser().parse_args(cmd)
    if shutil.which("espeak-ng") is None:
        sys.exit(
            "Error: espeak-ng is not on PATH; install it "
            "(Debian and Ubuntu: apt-get install espeak-ng)"
        )
    for name in args.sets:
        make_set(name, args.data_dir, args.nj)
        print(f"{name}: {SETS[name].size} utterances in {args.data_dir / name}")
    if "train" in args.sets:
        make_lm_text(args.data_dir / "lm_train" / "text")


if __name__ == "__main__":
    main()
