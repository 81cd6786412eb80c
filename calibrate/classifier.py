# SPDX-License-Identifier: Apache-2.0
"""The ONNX graph as a function from pixels to logits, for every method that calibrates or scans.

Joins what belongs together: preprocessing (inside the differentiable part), the interpreter, and the
head: a Softmax head is undone by ``log p``, a Sigmoid head by ``log p / (1 - p)``, and a LogSoftmax head is taken as
it is, because the cross-entropy of log-probabilities equals that of the logits. One score of two classes gets a
partner.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patcher.data.clean_set import CleanSet, Indices
from patcher.data.encoding import Encoding
from patcher.errors import InputError, UnsupportedGraphError
from patcher.graph.embedding import find_embedding
from patcher.graph.interpreter import Graph
from patcher.model.inputs import blank, pack
from patcher.model.model import Model
from patcher.tasks import SINGLE_LABEL, Task

Rewrite = Mapping[str, Callable[[Tensor], Tensor]]

_OPEN_SIDE = 224  # where the graph leaves the size open
_SMALLEST_PROBABILITY = 1e-12
_SMALLEST_DISTANCE = 1e-7  # of a probability from 0 and from 1: float32 knows no closer one to 1


def chain(first: Rewrite, second: Rewrite) -> Rewrite:
    """Both rewrites; at a tensor that both rewrite, the second acts on what the first made."""

    def both(before: Callable[[Tensor], Tensor], after: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda value: after(before(value))

    met = {name: both(first[name], second[name]) for name in second if name in first}
    return {**first, **second, **met}


def choose_device(name: str) -> torch.device:
    """Resolve ``auto``, ``cpu`` or ``cuda``.

    Raises:
        InputError: CUDA was asked for by name and is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError("--device cuda: a CUDA device expected, found none; use --device cpu")
    return torch.device(name)


class Classifier:
    """Runs a model on pixels, differentiably.

    Args:
        model: The classifier.
        preprocess: Pixels to model input.
        device: Where to run.
        task: What the class scores mean.

    Attributes:
        precision: Of convolutions and matrix products; see `at`.
    """

    def __init__(self, model: Model, preprocess: Encoding, *, device: torch.device, task: Task = SINGLE_LABEL) -> None:
        self.model = model
        self.preprocess = preprocess
        self.device = device
        self.task = task
        self.graph = Graph(model, device=device, channels_last=True)
        self.precision = torch.float32
        self._embedding = find_embedding(model) if model.kind == "tokens" else None
        self._under: Rewrite = {}

    def at(self, precision: torch.dtype) -> Classifier:
        """The same classifier with convolutions and matrix products in another floating-point type."""
        other = copy.copy(self)
        other.precision = precision
        return other

    def under(self, rewrite: Rewrite) -> Classifier:
        """The same model with corrections in place: every run sees them, and further rewrites act on top of them."""
        found = copy.copy(self)
        found._under = chain(self._under, rewrite)
        return found

    def run(
        self, images: Tensor, *, fetch: Sequence[str] = (), rewrite: Rewrite | None = None, scores: bool = True
    ) -> dict[str, Tensor]:
        """Run pixels through the graph.

        Args:
            images: float32 ``(N, C, H, W)`` in [0, 1] on `device`.
            fetch: Names of further tensors wanted beside the class scores.
            rewrite: Tensor name to a function applied to its value.
            scores: Whether the class scores are wanted; without them only what `fetch` needs is computed.

        Returns:
            The fetched tensors by name, and the raw output under the model's own output name.
        """
        mixed = images.ndim == len(self.model.carried_shape) + 2
        if mixed:
            rewrite = chain(self._mixture(images), rewrite or {})
            images = images[..., 0]
        inputs = self.preprocess.to_input(images)
        count = len(inputs)
        if self.model.batch is not None and (missing := -count % self.model.batch):
            # The graph takes multiples of its fixed batch: filled up with copies of the last row, cut off below.
            inputs = torch.cat([inputs, inputs[-1:].expand(missing, *inputs.shape[1:])])
        wanted = list(dict.fromkeys((*([self.model.logits] if scores else []), *fetch)))
        rewrite = chain(self._under, rewrite or {})
        values = self.graph.run(self._feed(inputs), fetch=wanted, rewrite=rewrite)
        return {name: value[:count] for name, value in values.items()} if len(inputs) > count else values

    def mixed(self, first: Tensor, second: Tensor, share: float) -> Tensor:
        """Convex pairs of rows ``(N, ...)``; of token ids such that `run` mixes their vectors, ``(N, ..., 3)``."""
        if self.model.kind != "tokens":
            return share * first + (1 - share) * second
        if len(self.model.carried_shape) == 1 < len(self.model.inputs):
            raise UnsupportedGraphError("--mixup: ids and masks of one shape expected, found several; give --mixup 0")
        # A place where either sentence has a word is looked at.
        there = torch.maximum(first, second) if first.ndim > 2 else first
        plain = torch.cat([first[:, :1], there[:, 1:]], dim=1) if first.ndim > 2 else first
        return torch.stack([plain, second, torch.full_like(first, share)], dim=-1)

    def _mixture(self, rows: Tensor) -> Rewrite:
        """The vectors of pairs of sentences as `mixed` made them."""
        if self._embedding is None:
            raise UnsupportedGraphError(
                "--mixup: ids that are looked up in a constant table expected, found none; give --mixup 0"
            )
        ids = self.model.feed(rows[..., 1])[self.model.input.name].round().long()
        other = torch.nn.functional.embedding(ids, self.graph.initializers[self._embedding.table])
        share = float(rows.flatten()[2])
        return {self._embedding.tensor: lambda value: share * value + (1 - share) * other}

    def _feed(self, inputs: Tensor) -> dict[str, Tensor]:
        """Inputs by name; ids and masks as whole numbers."""
        feed: dict[str, Tensor] = self.model.feed(inputs)
        whole = {item.name for item in self.model.inputs if item.is_integer}
        return {name: value.round().long() if name in whole else value for name, value in feed.items()}

    def logits(self, images: Tensor, *, rewrite: Rewrite | None = None) -> Tensor:
        """Class scores ``(N, K)`` whose softmax are the model's probabilities; see `run`."""
        if self.precision == torch.float32:
            return self.as_logits(self.run(images, rewrite=rewrite)[self.model.logits])
        with torch.autocast(self.device.type, self.precision):
            output = self.run(images, rewrite=rewrite)[self.model.logits]
        return self.as_logits(output.float())

    def as_logits(self, output: Tensor) -> Tensor:
        """Undo the model's head: the raw output, one row an image, to logits ``(N, K)`` up to a constant per row."""
        output = output.flatten(1)
        if self.model.head == "softmax":
            return output.clamp_min(_SMALLEST_PROBABILITY).log()
        if self.model.head == "sigmoid":
            output = output.float().logit(_SMALLEST_DISTANCE)
        return torch.cat([torch.zeros_like(output), output], dim=1) if self.model.single_score else output

    def batches(self, clean_set: CleanSet, indices: Indices, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images ``(n, C, H, W)`` and labels ``(n,)`` at `indices` as tensors on `device`, in order."""
        for images, labels in clean_set.batches(indices, size):
            yield self.tensor(images), torch.from_numpy(labels).to(self.device)

    def tensor(self, images: NDArray[np.float32]) -> Tensor:
        """NumPy rows to a tensor on `device`; of pictures channels-last."""
        rows = torch.from_numpy(images).to(self.device)
        return rows.contiguous(memory_format=torch.channels_last) if self.model.is_picture else rows

    def blank(self) -> Tensor:
        """One row without content: a grey picture, of arrays zeros with masks of ones."""
        model = self.model
        if model.is_picture:
            height, width = model.sized(_OPEN_SIDE)
            return torch.full((1, model.channels, height, width), 0.5, device=self.device)
        feed = blank(model.inputs, [(1, *shape) for shape in model.row_shapes])
        return torch.from_numpy(pack(list(feed.values()))).to(self.device)

    @torch.no_grad()
    def hits(self, clean_set: CleanSet, indices: Indices, *, batch_size: int, rewrite: Rewrite | None = None) -> Tensor:
        """Whether each image at `indices` gets its label: bool ``(n,)``."""
        return torch.cat([*self.hits_by_batch(clean_set, indices, batch_size=batch_size, rewrite=rewrite)])

    @torch.no_grad()
    def hits_by_batch(
        self, clean_set: CleanSet, indices: Indices, *, batch_size: int, rewrite: Rewrite | None = None
    ) -> Iterator[Tensor]:
        """As `hits`, batch by batch: bool, at most ``(batch_size,)`` each."""
        for images, labels in self.batches(clean_set, indices, batch_size):
            yield self.task.hits(self.logits(images, rewrite=rewrite), labels)
