"""``decoder: s4``: state spaces (Gu et al. 2022) with cross-attention."""

from __future__ import annotations

from typing import NamedTuple

import torch

from espnet_onnx_plugin.bundle import State
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.archs.transformer_decoder import (
    CrossMemory,
    cross_attention,
)
from espnet_onnx_plugin.export.registry import Arch, register
from espnet_onnx_plugin.export.steps import RECURRENT_INPUTS, StepModule


class _Discrete(NamedTuple):
    """A state space in discrete time, of complex states s (H, N) and real inputs u.

    s' = decay * s + sum_r low_rank[r] * Re(<feedback[r], s>) + drive * u
    y = Re(<readout, s'>)

    Attributes:
        decay, drive: (H, N).
        low_rank, feedback: (R, H, N).
        readout: (C, H, N).
    """

    decay: torch.Tensor
    low_rank: torch.Tensor
    feedback: torch.Tensor
    drive: torch.Tensor
    readout: torch.Tensor


def _normal_plus_low_rank(kernel: torch.nn.Module) -> _Discrete:
    """From ``SSKernelNPLR``, whose step in linear time this is.

    With a = 2 Re<Q, s>, x = E s - P a + 2 B u and b = 2 Re<R, x> the next state is
    D (x - P b); here a and b are put together as functions of s and u.
    """
    kernel._setup_step(mode="linear")
    names = ("D", "E", "P", "Q", "R", "B")
    params = {n: kernel.step_params[n].to(torch.complex128) for n in names}
    readout = kernel.dC
    kernel._setup_step()  # as ESPnet's inference has it
    D, E, P, Q, R, B = (params[n] for n in names)
    both = 2 * (R[:, None] * P[None]).sum(-1).real.to(torch.complex128)  # (R, R, H)
    feedback = 2 * Q + 2 * R * E - (both[..., None] * 2 * Q[None]).sum(1)
    from_input = 4 * (R * B).sum(-1).real  # (R, H)
    drive = 2 * D * B[0] - (D * P * from_input[..., None]).sum(0)
    return _Discrete(D * E, -D * P, feedback, drive, readout)


def _diagonal(kernel: torch.nn.Module) -> _Discrete:
    """From ``SSKernelDiag``."""
    kernel._setup_step()
    none = kernel.dA.new_zeros(0, *kernel.dA.shape)
    return _Discrete(kernel.dA, none, none, kernel.dB, 2 * kernel.dC)


def _reals(x: torch.Tensor) -> torch.Tensor:
    """(..., N) complex to (..., 2 N): real parts, then imaginary parts."""
    return torch.cat((x.real, x.imag), dim=-1).to(torch.float32)


class _StateSpace(torch.nn.Module):
    """``espnet2.asr.state_spaces.s4.S4``, one step, in real numbers."""

    def __init__(self, layer: torch.nn.Module):
        super().__init__()
        options = dict(gate=layer.gate, bottleneck=layer.bottleneck)
        options.update(hyper_act=layer.hyper, bidirectional=layer.bidirectional)
        for option, value in options.items():
            if value:
                raise PluginError(
                    f"decoder 's4' with {option} in a layer is not supported: ESPnet's "
                    "own inference cannot run it"
                )
        self.layer = layer
        kernel = layer.kernel.kernel
        with torch.no_grad():
            low_rank = hasattr(kernel, "rank")
            space = (_normal_plus_low_rank if low_rank else _diagonal)(kernel)
        shape = (layer.H, space.decay.size(-1))
        decay = space.decay.expand(shape)
        self.state = State("float32", ("rows", shape[0], 2 * shape[1]))
        buffers = dict(
            decay_same=torch.cat((decay.real, decay.real), dim=-1).float(),
            decay_other=torch.cat((-decay.imag, decay.imag), dim=-1).float(),
            low_rank=_reals(space.low_rank),
            # Re(<x, s>) takes the imaginary parts with the other sign.
            feedback=_reals(space.feedback.conj().resolve_conj()),
            drive=_reals(space.drive.expand(shape)),
            readout=_reals(space.readout.conj().resolve_conj()),
        )
        for name, value in buffers.items():
            self.register_buffer(name, value)

    def forward(
        self, u: torch.Tensor, state: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One step.

        Args:
            u: (utterances, hypotheses, H).
            state: (utterances, H, 2 N), see :class:`S4DecoderStep`.

        Returns:
            (utterances, hypotheses, size) and the states (rows, H, 2 N).
        """
        other = torch.roll(state, state.size(-1) // 2, -1)
        decayed = self.decay_same * state + self.decay_other * other
        for low_rank, feedback in zip(self.low_rank, self.feedback):
            amount = (feedback * state).sum(-1, keepdim=True)
            decayed = decayed + low_rank * amount
        new = decayed[:, None] + self.drive * u[..., None]
        y = (self.readout * new[:, :, None]).sum(-1) + self.layer.D * u[:, :, None]
        y = self.layer.activation(y.flatten(-2))
        return self.layer.output_linear(y), new.flatten(0, 1)


class S4DecoderStep(StepModule):
    """``espnet2.asr.decoder.s4_decoder.S4Decoder``, one token.

    ESPnet's ``batch_score`` gives every hypothesis the state of the first one; search
    results that equal ESPnet's follow from that. Its ``score`` does not exist.
    """

    together = True

    def __init__(self, decoder: torch.nn.Module):
        super().__init__(decoder, RECURRENT_INPUTS)
        model = decoder.decoder
        if model.transposed:
            raise PluginError("decoder 's4' with transposed: true is not supported")
        if any(block.pool is not None for block in model.layers):
            raise PluginError("decoder 's4' with pool is not supported")
        self.parts = torch.nn.ModuleDict()
        attentions = []
        states: dict[str, State] = {}
        for i, block in enumerate(model.layers):
            kind = type(block.layer).__name__
            if kind == "S4":
                self.parts[str(i)] = part = _StateSpace(block.layer)
                states[f"state_{i}"] = part.state
            elif kind == "MultiHeadedAttention":
                attentions.append(block.layer)
        self.states = states
        self.memory = CrossMemory(attentions)
        self.memory_tensors = self.memory.tensors

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Score the next token of every hypothesis."""
        (tokens, parents), (bias, *memory), past = self.split(tensors)
        keys_and_values = zip(memory[::2], memory[1::2])
        first = [state.index_select(0, parents[:, 0]) for state in past]
        model = self.reference.decoder
        x = self.reference.embed(tokens)
        states = []
        for i, block in enumerate(model.layers):
            y = _norm(block.norm, x) if block.prenorm else x
            if str(i) in self.parts:
                y, state = self.parts[str(i)](y, first[len(states)])
                states.append(state)
            elif type(block.layer).__name__ == "MultiHeadedAttention":
                y = cross_attention(block.layer, y, *next(keys_and_values), bias)
            else:
                y = block.layer.ff(y)
            if block.residual is not None:
                y = block.residual(x, y, transposed=False)
            x = y if block.prenorm else _norm(block.norm, y)
        if model.layers[0].prenorm:
            x = _norm(model.norm, x)
        scores = torch.log_softmax(self.reference.output(x), dim=-1)
        return (scores.flatten(0, 1), *states)


def _norm(norm, x: torch.Tensor) -> torch.Tensor:
    """``espnet2.asr.state_spaces.components.Normalization`` of single steps."""
    if norm is None:
        return x
    if norm.channel:
        return norm.norm(x)
    return norm.norm(x.flatten(0, 1)[..., None])[..., 0].view(x.shape)


def needs_state_spaces() -> None:
    """Import what ESPnet builds state spaces with.

    Raises:
        PluginError: if it is not installed.
    """
    try:
        import hydra  # noqa: F401
        import omegaconf  # noqa: F401
        import opt_einsum  # noqa: F401
    except ImportError as e:
        raise PluginError(
            f"decoder 's4' needs packages that ESPnet leaves out ({e}): pip install "
            "hydra-core omegaconf opt_einsum"
        )


register(
    Arch(
        role="decoder",
        name="s4",
        wrap=S4DecoderStep,
        tiny={
            "every_layer": dict(
                n_layers=1,
                prenorm=False,
                layer=[
                    dict(
                        _name_="s4",
                        d_state=8,
                        channels=2,
                        mode="diag",
                        measure="diag-lin",
                        postact=None,
                    ),
                    dict(_name_="s4", d_state=8, rank=2, measure="legt"),
                    dict(_name_="mha", n_head=2),
                    dict(_name_="ff", expand=2),
                ],
                residual="affine",
                norm="batch",
            ),
        },
        limits="transposed: false, no pool",
        needs=needs_state_spaces,
    )
)
