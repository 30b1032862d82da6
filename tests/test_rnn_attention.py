"""Every attention of ESPnet's RNN decoder: one step of a batch against ESPnet's own."""

import pytest
import torch

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.espnet_compat import import_nets
from espnet_onnx_plugin.export.layers.rnn_attention import step_attention

DIM, UNITS = 5, 4
FRAMES, HYPOTHESES = (9, 6), 3


@pytest.mark.parametrize(
    "atype",
    [
        "noatt",
        "dot",
        "add",
        "location",
        "location2d",
        "location_recurrent",
        "coverage",
        "coverage_location",
        "multi_head_dot",
        "multi_head_add",
        "multi_head_loc",
        "multi_head_multi_res_loc",
    ],
)
def test_attention_is_espnets(atype):
    torch.manual_seed(0)
    build = import_nets("pytorch_backend.rnn.attentions").initial_att
    theirs = build(atype, DIM, UNITS, 3, 6, 4, 2, 5).eval()
    ours = step_attention(theirs, DIM).eval()
    encoder_out = torch.randn(len(FRAMES), max(FRAMES), DIM)
    shape = (len(FRAMES), HYPOTHESES)
    with torch.no_grad():
        memory = ours.memory(encoder_out, torch.tensor(FRAMES))
        sizes = dict(rows=shape[0] * shape[1], frames=max(FRAMES))
        state = [
            torch.zeros([sizes.get(axis, axis) for axis in state.axes])
            for state in ours.states.values()
        ]
        steps = torch.randn(4, sizes["rows"], UNITS)
        got = []
        for z in steps:
            context, state = ours(z, shape, memory, state)
            got.append(context)
        for row in range(sizes["rows"]):
            length = FRAMES[row // HYPOTHESES]
            alone, past = encoder_out[row // HYPOTHESES, None, :length], None
            theirs.reset()
            for z, context in zip(steps, got):
                expected, past = theirs(alone, [length], z[row, None], past)
                torch.testing.assert_close(context[row, None], expected)


def test_another_attention_is_refused():
    attention = import_nets("pytorch_backend.rnn.attentions").AttForward
    with pytest.raises(PluginError, match="AttForward.*AttLoc2D"):
        step_attention(attention(DIM, UNITS, 6, 2, 5), DIM)
