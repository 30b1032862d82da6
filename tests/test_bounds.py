"""Bounds of a job: audio is held once, memory and files stay as they were."""

import weakref

import numpy as np
import pytest
import soundfile
from conftest import RATE, waves
from test_input import scp

import espnet_onnx_plugin
from espnet_onnx_plugin.runtime.io.audio import READERS, Audio
from espnet_onnx_plugin.runtime.io.data import Source, attempts
from espnet_onnx_plugin.runtime.recognition.decode import BatchLimits, decode


@pytest.mark.parametrize(
    "form, subtypes",
    [
        ("WAV", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"]),
        ("FLAC", ["PCM_16", "PCM_24"]),
        ("OGG", ["VORBIS"]),
    ],
)
def test_samples_read_in_float32_are_those_of_float64(tmp_path, form, subtypes):
    wave = 0.7 * np.random.default_rng(0).uniform(-1, 1, 4000)
    for subtype in subtypes:
        path = str(tmp_path / f"a.{form.lower()}")
        soundfile.write(path, wave, RATE, subtype=subtype, format=form)
        wide = READERS["sound"](path, "float64").array
        narrow = READERS["sound"](path, "float32").array
        assert narrow.dtype == np.float32
        assert np.array_equal(narrow, wide.astype(np.float32)), subtype


def test_audio_is_held_once_and_in_float32(tiny, tmp_path, monkeypatch):
    taken = []

    class Model(espnet_onnx_plugin.Speech2Text):
        def prepare(self, speech):
            taken.append((speech, super().prepare(speech)))
            return taken[-1][1]

    read = attempts(Source(scp(tmp_path, waves()), "sound"), None, "float32")
    list(decode(Model(tiny["bundle"], beam_size=1), read))
    assert taken
    for before, after in taken:
        assert before.dtype == np.float32 and np.shares_memory(before, after)


def test_audio_is_let_go_with_its_batch(tiny, tmp_path):
    audio = []
    most = []

    class Held(np.ndarray):
        """An array that can be referred to weakly."""

    class Model(espnet_onnx_plugin.Speech2Text):
        def prepare(self, speech):
            held = super().prepare(speech).copy().view(Held)
            audio.append(weakref.ref(held))
            return held

        def batch(self, utterances):
            most.append(sum(one() is not None for one in audio))
            return super().batch(utterances)

    wave = waves()["utt0"].astype(np.float32)
    several = ((f"u{i}", Audio(wave, RATE)) for i in range(8))
    list(decode(Model(tiny["bundle"], beam_size=1), several, BatchLimits(2)))
    assert most == [8, 6, 4, 2]
