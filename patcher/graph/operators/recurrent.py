# SPDX-License-Identifier: Apache-2.0
"""LSTM, GRU and RNN: a state ``h`` (and ``c``) carried along a sequence, forward, in reverse, or both.

    LSTM  i, o, f = s(W x + R h + P c + b), c' = f c + i g(W x + R h + b), h' = o g(c')
    GRU   z, r = s(W x + R h + b), h' = (1 - z) g(W x + b + r (R h + b)) + z h
    RNN   h' = g(W x + R h + b)

Where weights are all that there is, torch's own kernels compute it (their gates stand in another order). A loop over
the steps does what those cannot: sequences of several lengths in one batch, peepholes ``P``, other activations, and
the GRU that resets ``h`` before its product with R (the standard's default; frameworks export the other). A sequence
that is over keeps its state, and its outputs are 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from patcher.errors import UnsupportedGraphError
from patcher.graph.operators.registry import Check, operator

Function = Callable[[Tensor], Tensor]
States = tuple[Tensor, ...]
# One step: what the input gives to every gate, (N, gates * H), and the states before, to the states after.
Step = Callable[[Tensor, States], States]

_FUNCTIONS: dict[str, Function] = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu}
# The direction's passes: whether each goes through the sequence in reverse.
_PASSES = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
# Each operator's activations, of one direction.
_LSTM, _GRU, _RNN = ("sigmoid", "tanh", "tanh"), ("sigmoid", "tanh"), ("tanh",)
# Places of torch's gates (LSTM i, f, c, o; GRU r, z, h) among the standard's (i, o, f, c; z, r, h).
_LSTM_GATES, _GRU_GATES, _RNN_GATES = (0, 2, 3, 1), (1, 0, 2), (0,)


def _functions(
    names: Sequence[str] | None, usual: tuple[str, ...], direction: str
) -> tuple[list[tuple[Function, ...]], bool]:
    """The activations of each pass, and whether they are the usual ones.

    Raises:
        UnsupportedGraphError: One of them is not known here.
    """
    if direction not in _PASSES:
        raise UnsupportedGraphError(f"direction: {', '.join(_PASSES)} expected, found {direction!r}")
    expected = usual * len(_PASSES[direction])
    given = tuple(name.lower() for name in names) if names else expected
    if len(given) != len(expected) or not set(given) <= set(_FUNCTIONS):
        known = ", ".join(_FUNCTIONS)
        raise UnsupportedGraphError(f"activations: {len(expected)} of {known} expected, found {', '.join(given)}")
    functions = [_FUNCTIONS[name] for name in given]
    count = len(usual)
    return [tuple(functions[at : at + count]) for at in range(0, len(functions), count)], given == expected


def _check(usual: tuple[str, ...]) -> Check:
    """Refuses activations and directions that are not known, before anything is computed."""

    def check(attributes: Mapping[str, Any]) -> None:
        _functions(attributes.get("activations"), usual, attributes.get("direction", "forward"))

    return check


@operator("LSTM", host=("lengths",), check=_check(_LSTM))
def lstm(
    x: Tensor,
    weights: Tensor,
    recurrent: Tensor,
    bias: Tensor | None = None,
    lengths: Any = None,
    initial_h: Tensor | None = None,
    initial_c: Tensor | None = None,
    peepholes: Tensor | None = None,
    *,
    activations: Sequence[str] | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    input_forget: int = 0,
    layout: int = 0,
) -> tuple[Tensor, ...]:
    """Long short-term memory, ``(T, N, I)`` to ``(T, D, N, H)``, the last ``h`` and the last ``c``."""
    layer = _Layer(x, weights, recurrent, bias, lengths, direction, layout)
    functions, usual = _functions(activations, _LSTM, direction)
    states = layer.states(initial_h, initial_c)
    if usual and peepholes is None and not input_forget and layer.lengths is None:
        return layer.kernel(torch.lstm, states, _LSTM_GATES)

    def step_of(place: int) -> Step:
        squash, candidate, output = functions[place]
        product, shift = recurrent[place].T, layer.biases[place][1]
        own_i, own_o, own_f = (0, 0, 0) if peepholes is None else peepholes[place].chunk(3)

        def step(gates: Tensor, states: States) -> States:
            h, c = states
            i, o, f, g = (gates + h @ product + shift).chunk(4, -1)
            i = squash(i + own_i * c)
            f = 1 - i if input_forget else squash(f + own_f * c)
            c = f * c + i * candidate(g)
            return squash(o + own_o * c) * output(c), c

        return step

    return layer.loop(step_of, states)


@operator("GRU", host=("lengths",), check=_check(_GRU))
def gru(
    x: Tensor,
    weights: Tensor,
    recurrent: Tensor,
    bias: Tensor | None = None,
    lengths: Any = None,
    initial_h: Tensor | None = None,
    *,
    activations: Sequence[str] | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    linear_before_reset: int = 0,
) -> tuple[Tensor, ...]:
    """Gated recurrent unit, ``(T, N, I)`` to ``(T, D, N, H)`` and the last ``h``."""
    layer = _Layer(x, weights, recurrent, bias, lengths, direction, layout)
    functions, usual = _functions(activations, _GRU, direction)
    states = layer.states(initial_h)
    if usual and linear_before_reset and layer.lengths is None:
        return layer.kernel(torch.gru, states, _GRU_GATES)

    def step_of(place: int) -> Step:
        squash, candidate = functions[place]
        (product, last), (shift, last_shift) = (
            values.split((2 * layer.size, layer.size)) for values in (recurrent[place], layer.biases[place][1])
        )

        def step(gates: Tensor, states: States) -> States:
            (h,) = states
            zr, new = gates.split((2 * layer.size, layer.size), -1)
            z, r = squash(zr + h @ product.T + shift).chunk(2, -1)
            past = r * (h @ last.T + last_shift) if linear_before_reset else (r * h) @ last.T + last_shift
            return ((1 - z) * candidate(new + past) + z * h,)

        return step

    return layer.loop(step_of, states)


@operator("RNN", host=("lengths",), check=_check(_RNN))
def rnn(
    x: Tensor,
    weights: Tensor,
    recurrent: Tensor,
    bias: Tensor | None = None,
    lengths: Any = None,
    initial_h: Tensor | None = None,
    *,
    activations: Sequence[str] | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
) -> tuple[Tensor, ...]:
    """The plain recurrent layer, ``(T, N, I)`` to ``(T, D, N, H)`` and the last ``h``."""
    layer = _Layer(x, weights, recurrent, bias, lengths, direction, layout)
    functions, usual = _functions(activations, _RNN, direction)
    states = layer.states(initial_h)
    if usual and layer.lengths is None:
        return layer.kernel(torch.rnn_tanh, states, _RNN_GATES)

    def step_of(place: int) -> Step:
        (function,), product, shift = functions[place], recurrent[place].T, layer.biases[place][1]
        return lambda gates, states: (function(gates + states[0] @ product + shift),)

    return layer.loop(step_of, states)


@dataclass(frozen=True)
class _Layer:
    """What the three operators share: the sequence, its passes, and the two ways to go through it."""

    given: Tensor
    weights: Tensor
    recurrent: Tensor
    bias: Tensor | None
    given_lengths: Any
    direction: str
    layout: int

    @property
    def x(self) -> Tensor:
        """The sequences ``(T, N, I)``."""
        return self.given.transpose(0, 1) if self.layout else self.given

    @property
    def size(self) -> int:
        """Length of the state."""
        return self.recurrent.shape[-1]

    @property
    def lengths(self) -> Tensor | None:
        """Steps of each sequence, ``(N, 1)``; ``None`` where all go to the end."""
        steps = self.x.shape[0]
        if self.given_lengths is None or all(length == steps for length in self.given_lengths):
            return None
        return torch.tensor(self.given_lengths, device=self.given.device).unsqueeze(1)

    @property
    def biases(self) -> list[tuple[Tensor, Tensor]]:
        """What is added to ``W x`` and to ``R h``, of each pass."""
        if self.bias is None:
            zero = self.weights.new_zeros(self.weights.shape[1])
            return [(zero, zero)] * len(self.weights)
        return [tuple(own.chunk(2)) for own in self.bias]

    def states(self, *initial: Tensor | None) -> States:
        """The states to begin with, ``(D, N, H)``; 0 where none is given."""
        zero = self.given.new_zeros((len(self.weights), self.x.shape[1], self.size))
        given = [value.transpose(0, 1) if self.layout and value is not None else value for value in initial]
        return tuple(zero if value is None else value.contiguous() for value in given)

    def kernel(self, function: Callable[..., Any], states: States, gates: tuple[int, ...]) -> tuple[Tensor, ...]:
        """Both passes in a kernel of torch's; ``gates`` are the places of its gates among the standard's."""
        parameters = []
        for own in zip(self.weights, self.recurrent, *zip(*self.biases, strict=True), strict=True):
            for values in own:
                parts = values.chunk(len(gates))
                parameters.append(torch.cat([parts[gate] for gate in gates]))
        reverse, both = self.direction == "reverse", self.direction == "bidirectional"
        x = self.x.flip(0) if reverse else self.x
        # One layer, no dropout; in training mode, without which some kernels keep nothing for the gradient.
        y, *last = function(
            x, states if len(states) > 1 else states[0], parameters, True, 1, 0.0, torch.is_grad_enabled(), both, False
        )
        y = y.unflatten(-1, (len(self.weights), self.size)).transpose(1, 2)
        return self._results(y.flip(0) if reverse else y, last)

    def loop(self, step_of: Callable[[int], Step], states: States) -> tuple[Tensor, ...]:
        """Each pass step by step."""
        passes, lasts, lengths = [], [], self.lengths
        for place, reverse in enumerate(_PASSES[self.direction]):
            step, state = step_of(place), tuple(values[place] for values in states)
            gates = self.x @ self.weights[place].T + self.biases[place][0]
            outputs = []
            for at in reversed(range(len(gates))) if reverse else range(len(gates)):
                new = step(gates[at], state)
                if lengths is not None:
                    going = at < lengths
                    new = tuple(torch.where(going, after, before) for after, before in zip(new, state, strict=True))
                    outputs.append(torch.where(going, new[0], 0.0))
                else:
                    outputs.append(new[0])
                state = new
            passes.append(torch.stack(outputs[::-1] if reverse else outputs))
            lasts.append(state)
        return self._results(torch.stack(passes, 1), [torch.stack(last) for last in zip(*lasts, strict=True)])

    def _results(self, y: Tensor, last: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Outputs in the layout that the node asks for."""
        if not self.layout:
            return (y, *last)
        return (y.permute(2, 0, 1, 3), *(values.transpose(0, 1) for values in last))
