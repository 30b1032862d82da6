"""Beamforming and dereverberation: every filter against ESPnet's own."""

import numpy as np
import pytest
import torch
from conftest import a_few
from test_enh import espnet_class, exported

from espnet_onnx_plugin.bundle import Enhancement
from espnet_onnx_plugin.bundle.enhancement import Beamforming, Wpe
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.graphs import difference
from espnet_onnx_plugin.runtime.enh import SeparateSpeech
from espnet_onnx_plugin.runtime.enhancement.dereverberation import dereverberated
from espnet_onnx_plugin.runtime.enhancement.inputs import made_up as made_up_mixtures
from espnet_onnx_plugin.runtime.enhancement.spatial import Filters

BINS, CHANNELS, FRAMES = 9, 3, 40

#: Types of one speaker, and of two.
SINGLE = """mvdr mvdr_souden mpdr mpdr_souden wmpdr wmpdr_souden wpd wpd_souden mwf wmwf
sdw_mwf r1mwf gev gev_ban""".split()
SEVERAL = [*SINGLE, "lcmv", "lcmp", "wlcmp", "mvdr_tfs", "mvdr_tfs_souden"]


def made_up(masks: int) -> tuple[np.ndarray, np.ndarray]:
    """A spectrum (bins, channels, frames), and masks of it."""
    random = np.random.default_rng(0)
    shape = (BINS, CHANNELS, FRAMES)
    source = random.standard_normal((2, BINS, 1, FRAMES))
    noise = random.standard_normal((2, *shape))
    real, imag = 0.3 * (source + 0.3 * noise)
    return (real + 1j * imag).astype(np.complex64), random.random(
        (masks, *shape), dtype=np.float32
    )


def espnet_beamformer(kind: str, speakers: int, noise_mask: bool, **options):
    """ESPnet's, whose masks are given."""
    from espnet2.enh.layers.dnn_beamformer import DNN_Beamformer

    torch.manual_seed(0)
    return DNN_Beamformer(
        BINS,
        blayers=1,
        bunits=2,
        bprojs=2,
        badim=4,
        num_spk=speakers,
        use_noise_mask=noise_mask,
        beamformer_type=kind,
        **options,
    )


@pytest.mark.parametrize(
    "options", [{}, {"torchaudio": True, "loading": 1e-3}], ids=str
)
@pytest.mark.parametrize("noise_mask", [True, False], ids=["noise", "speech"])
@pytest.mark.parametrize(
    "kind, speakers",
    [*((kind, 1) for kind in SINGLE), *((kind, 2) for kind in SEVERAL), ("mvdr", 3)],
)
def test_filters(kind, speakers, noise_mask, options):
    """Masks make the same spectra, by a channel and by weights of all."""
    settings = Beamforming(
        type=kind, noise_mask=noise_mask, iterations=3, taps=2, delay=1, **options
    )
    spectrum, masks = made_up(speakers + noise_mask)
    for channel in (1, -1):
        theirs = espnet_beamformer(
            kind,
            speakers,
            noise_mask,
            ref_channel=channel,
            rtf_iterations=3,
            btaps=2,
            bdelay=1,
            diag_eps=settings.loading,
            use_torchaudio_api=settings.torchaudio,
        )
        data = torch.from_numpy(spectrum.transpose(2, 1, 0).copy())[None]
        lengths = torch.tensor([FRAMES])
        with torch.no_grad():
            expected, _, _ = theirs(
                data, lengths, oracle_masks=list(torch.from_numpy(masks)[:, None])
            )
        expected = torch.stack(expected if speakers > 1 else [expected])[:, 0]
        filters = Filters(spectrum.astype(np.complex128), masks, settings)
        references = [channel] * speakers
        if channel < 0 and kind not in ("lcmv", "lcmp", "wlcmp"):
            psds = [torch.from_numpy(c.astype(np.complex64)) for c in filters.speech]
            references = [
                theirs.ref(psd[None], lengths)[0][0].double().detach().numpy()
                for psd in psds
            ]
        made = filters(references).swapaxes(1, 2)
        for ours, other in zip(made, expected.numpy(), strict=True):
            assert difference(_pairs(ours), _pairs(other)) <= 1e-5


def _pairs(spectrum: np.ndarray) -> np.ndarray:
    return np.stack((spectrum.real, spectrum.imag))


@pytest.mark.parametrize("channels", [1, 3])
def test_dereverberation(channels):
    """The past predicts what ESPnet's layer takes away."""
    from espnet2.enh.layers.wpe import wpe_one_iteration

    spectrum = made_up(1)[0][:, :channels].astype(np.complex128)
    power = 0.1 + np.random.default_rng(1).random((BINS, FRAMES))
    made = dereverberated(spectrum, power, Wpe(taps=4, delay=2, iterations=1))
    expected = wpe_one_iteration(
        torch.from_numpy(spectrum), torch.from_numpy(power), taps=4, delay=2
    )
    assert difference(_pairs(made), _pairs(expected.numpy())) <= 1e-8
    assert difference(_pairs(made), _pairs(spectrum)) > 1e-2


@pytest.fixture(scope="module")
def attention(tmp_path_factory):
    """A model that weighs the channels itself, and its files."""
    return exported("wpe_beamformer", "attention", tmp_path_factory.mktemp("a"))


@pytest.mark.parametrize("channels", [2, 5])
@pytest.mark.parametrize("options", [{}, dict(ref_channel=1)], ids=str)
def test_channels(attention, channels, options):
    """Any number of channels, and the channel that the options name."""
    bundle, files = attention
    random = np.random.default_rng(3)
    mix = 0.1 * random.standard_normal((1, 4001, channels)).astype(np.float32)
    ours = SeparateSpeech(bundle, **options)(mix)
    theirs = espnet_class(files, **options)(mix)
    for made, expected in zip(ours, theirs, strict=True):
        assert difference(made, expected) <= 1e-4


def test_unfit(attention):
    """A channel that is not there, and speakers that one channel cannot tell apart."""
    bundle, _ = attention
    with pytest.raises(PluginError, match="ref_channel 3 is not one of the 2"):
        SeparateSpeech(bundle, ref_channel=3)(np.ones((1, 4000, 2), np.float32))
    with pytest.raises(PluginError, match="1 channel, of which .* 2 speakers"):
        SeparateSpeech(bundle)(np.ones((1, 4000), np.float32))


def test_reference_beyond():
    """A model of the fifth channel is checked with mixtures that have one."""
    method = Beamforming(type="mvdr", noise_mask=True)
    described = Enhancement(
        outputs=1, channels=None, ref_channel=4, min_length=2, method=method
    )
    shapes = {mixture.speech_mix.shape[1] for _, mixture in made_up_mixtures(described)}
    assert shapes == {5}


@pytest.mark.parametrize("name", a_few(["souden", "unmasked"]))
def test_one_channel(name, tmp_path):
    """A mixture of one channel passes, or is dereverberated only."""
    bundle, files = exported("wpe_beamformer", name, tmp_path)
    random = np.random.default_rng(4)
    mix = 0.1 * random.standard_normal((1, 4001)).astype(np.float32)
    [made] = SeparateSpeech(bundle, ref_channel=0)(mix)
    [expected] = espnet_class(files, ref_channel=0)(mix)
    assert difference(made, expected) <= 1e-4
    assert (difference(made, mix) <= 1e-4) == (name == "souden")


@pytest.mark.parametrize(
    "choices, reason",
    [
        (dict(use_beamformer=False), "without use_beamformer"),
        (dict(beamformer_type="lcmv"), "lcmv with one speaker"),
        (dict(num_spk=2, use_wpe=True, multi_source_wpe=False), "multi_source_wpe"),
    ],
    ids=str,
)
def test_refusals(choices, reason):
    """Settings that ESPnet cannot run itself are refused by name."""
    from espnet2.enh.encoder.stft_encoder import STFTEncoder
    from espnet2.enh.separator.neural_beamformer import NeuralBeamformer

    from espnet_onnx_plugin.export.enh_module import Ends
    from espnet_onnx_plugin.export.registry import find

    small = dict(blayers=1, bunits=2, bprojs=2, wlayers=1, wunits=2, wprojs=2, badim=2)
    separator = NeuralBeamformer(BINS, **small, **choices)
    ends = Ends(STFTEncoder(n_fft=16), None)
    with pytest.raises(PluginError, match=reason):
        find("separator", "wpe_beamformer").wrap(separator, ends)
