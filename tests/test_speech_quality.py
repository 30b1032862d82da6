"""Mel-cepstral distortion and log-F0 RMSE of synthetic speech."""

import math
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate import mel_cepstrum
from espnet_onnx_plugin.evaluate.speech_quality import (
    MEL_CEPSTRA,
    Measures,
    average,
    measure,
    measure_files,
    mel_cepstral_distortion,
    time_warp,
    wav_files,
)

RATE = 16000
SEMITONE = math.log(2) / 12


def speech(f0=120.0, formants=(700, 1200, 2600), seconds=0.6, rate=RATE, level=0.1):
    """A vowel: harmonics of a voice that glides, under formants that stay."""
    time = np.arange(int(seconds * rate)) / rate
    phase = 2 * np.pi * f0 * (time + 0.05 * np.sin(2 * np.pi * time / seconds))
    wave = np.zeros_like(time)
    for harmonic in range(1, int(rate / 2.5 / f0)):
        peaks = [1 / (1 + ((harmonic * f0 - f) / 150) ** 2) for f in formants]
        wave += (0.01 + sum(peaks)) * np.sin(harmonic * phase + harmonic**2)
    return level * wave / np.abs(wave).max()


def test_identical():
    wave = speech()
    assert measure(wave, wave.copy(), RATE) == Measures(0.0, 0.0)


def test_a_missing_package_of_the_pitch_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyworld", None)
    with pytest.raises(PluginError, match="F0 needs pyworld: pip install pyworld"):
        measure(speech(), speech(), RATE)
    assert mel_cepstral_distortion(speech(), speech(), RATE) == 0.0


@pytest.mark.parametrize("semitones", [1, 3])
def test_pitch(semitones):
    other = speech(f0=120 * 2 ** (semitones / 12))
    measures = measure(speech(), other, RATE)
    assert measures.log_f0_rmse == pytest.approx(semitones * SEMITONE, rel=0.05)


def test_timbre():
    wave, near = speech(), speech(formants=(720, 1230, 2650))
    far = speech(formants=(300, 2300, 3000))
    there, back = measure(wave, far, RATE), measure(far, wave, RATE)
    assert 0 < measure(wave, near, RATE).mcd < there.mcd
    assert there.mcd == pytest.approx(back.mcd, rel=1e-6)
    assert there.log_f0_rmse < SEMITONE / 2


def test_level():
    """Energy counts: half the amplitude is ln 2 less of the first coefficient."""
    measures = measure(speech(level=0.8), speech(level=0.4), RATE)
    expected = 10 / math.log(10) * math.sqrt(2) * math.log(2)
    assert measures.mcd == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize(
    "rate, mcd, log_f0_rmse",
    [(16000, 7.1709386, 0.10965596), (22050, 6.6383791, 0.10381340)],
)
def test_as_espnets_scripts(rate, mcd, log_f0_rmse):
    """Figures of evaluate_mcd.py and evaluate_f0.py (pysptk 1.0.1, fastdtw 0.3.4)."""
    other = speech(130, (650, 1300, 2500), seconds=0.5, rate=rate, level=0.2)
    measures = measure(speech(rate=rate), other, rate)
    assert measures.mcd == pytest.approx(mcd, rel=1e-5)
    assert measures.log_f0_rmse == pytest.approx(log_f0_rmse, rel=1e-5)


@pytest.mark.parametrize(
    "rate, first, last",
    [
        (16000, [5.006274, 3.843982, -1.935439, 0.463495], 0.00124722),
        (22050, [5.130268, 3.677883, -2.049654, 0.502228], -0.01255335),
    ],
)
def test_mel_cepstrum_of_sptk(rate, first, last):
    """Results of pysptk.mcep(frame, order, alpha, eps=1e-6, etype=1)."""
    window = np.hamming(1024)
    frame = speech()[3000:4024] * 2**15 * window / np.linalg.norm(window)
    order, alpha = MEL_CEPSTRA[rate]
    power = np.abs(np.fft.rfft(frame)) ** 2 + 1e-6
    # One frame's steps are its own.
    both = np.stack([np.full_like(power, 3.0), power])
    flat, cepstrum = mel_cepstrum.from_periodogram(both, order, alpha)
    assert cepstrum.shape == (order + 1,)
    np.testing.assert_allclose(cepstrum[:4], first, atol=1e-5)
    assert cepstrum[-1] == pytest.approx(last, abs=1e-5)
    np.testing.assert_allclose(flat, [math.log(3) / 2] + order * [0], atol=1e-6)


def test_alignment_is_the_best_path():
    a = np.array([[0.0], [1.0], [1.0], [5.0], [2.0]])
    b = np.array([[0.0], [0.0], [1.0], [5.0], [5.0], [2.0]])
    i, j = time_warp(a, b)
    assert (a[i] == b[j]).all()
    for path, frames in ((i, len(a)), (j, len(b))):
        assert path[0] == 0 and path[-1] == frames - 1
        assert set(np.diff(path)) <= {0, 1}
    assert (np.diff(i) + np.diff(j) > 0).all()
    # Of equal paths the straight one.
    i, j = time_warp(np.zeros((4, 2)), np.zeros((4, 2)))
    assert i.tolist() == j.tolist() == [0, 1, 2, 3]


def test_nothing_to_measure():
    silence = np.zeros(2000)
    assert measure(silence, speech(), RATE).log_f0_rmse is None
    assert measure(silence[:1023], speech(), RATE) == Measures(None, None)


@pytest.mark.parametrize(
    "wave, rate, match",
    [
        (np.zeros(2000), 8000, "no mel-cepstral distortion at 8000 Hz"),
        (np.full(2000, np.nan), RATE, "not finite"),
    ],
)
def test_refused(wave, rate, match):
    with pytest.raises(PluginError, match=match):
        measure(np.zeros(2000), wave, rate)


def test_average():
    rows = [Measures(1.0, None), Measures(2.0, 0.5), Measures(None, None)]
    assert average(rows) == Measures(1.5, 0.5)
    assert average(rows[2:]) == Measures(None, None)


def test_files(tmp_path):
    scp = tmp_path / "wav.scp"
    wave, other = speech(), speech(level=0.2)
    (tmp_path / "set/part").mkdir(parents=True)
    for name, content in {"a": wave, "b": other}.items():
        soundfile.write(tmp_path / f"{name}.wav", content, RATE)
        soundfile.write(tmp_path / f"set/part/{name}.wav", wave, RATE)
    scp.write_text(f"b {tmp_path}/b.wav\na {tmp_path}/a.wav\n")
    references, others = wav_files(scp), wav_files(tmp_path / "set")
    assert list(references) == ["b", "a"] and others.keys() == {"a", "b"}
    # A file's samples are those that measure() rounds to.
    pairs = [(references[name], others[name]) for name in "ab"]
    assert measure_files(pairs) == [Measures(0, 0), measure(other, wave, RATE)]

    soundfile.write(tmp_path / "set/a.wav", wave, 22050)
    with pytest.raises(PluginError, match="two files of one utterance"):
        wav_files(tmp_path / "set")
    with pytest.raises(PluginError, match="set/a.wav is sampled at 22050 Hz"):
        measure_files([(references["a"], tmp_path / "set/a.wav")])
    with pytest.raises(PluginError, match="cannot read audio file"):
        measure_files([(scp, scp)])


def test_f0_of_a_file_is_sought_once(tmp_path, monkeypatch):
    pyworld = pytest.importorskip("pyworld")
    files = [tmp_path / f"{name}.wav" for name in "abc"]
    for level, file in enumerate(files, 1):
        soundfile.write(file, speech(level=0.1 * level), RATE)
    sought, harvest = [], pyworld.harvest
    monkeypatch.setattr(
        pyworld, "harvest", lambda *args, **kw: sought.append(1) or harvest(*args, **kw)
    )
    first, *others = files
    made = measure_files([*((first, other) for other in others), (others[0], first)])
    assert len(made) == len(sought) == 3 and None not in made[0].__dict__.values()


def test_without_torch():
    code = (
        "import sys; sys.modules['torch'] = None; import numpy as np; "
        "from espnet_onnx_plugin.evaluate.speech_quality import measure; "
        "wave = np.sin(np.arange(3000) / 9); measure(wave, wave, 16000)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
