# SPDX-License-Identifier: Apache-2.0
"""The rounds of NONE: identify, start anew, fine-tune; killed at any moment, resumed with the same result.

The state between two epochs is all there is: weights, the optimiser's moments, what was found, round and
epoch. Chance is drawn anew for each epoch from ``(seed, round, epoch)``, so that it needs no state.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patcher.calibrate.audit.audit import audit, findings_of
from patcher.calibrate.audit.confirmation import Verdict
from patcher.calibrate.augmentation import Augmentation, apply_all, tolerated
from patcher.calibrate.classifier import Rewrite
from patcher.calibrate.findings import Findings, findings_from_json
from patcher.calibrate.none.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from patcher.calibrate.none.options import Options
from patcher.calibrate.none.reinitialization import as_rewrite, reinitialize
from patcher.calibrate.run import Run
from patcher.calibrate.training import Problem, Steps, fit
from patcher.data.clean_set import CleanSet, Indices
from patcher.graph.site import Site
from patcher.graph.weight_channels import find_layers

# Chosen, not measured.
_MOMENT_IMAGES = 512
_AUGMENTATION_EPSILON = 0.02
_LEAST_STEPS = 50  # an epoch of a small training set goes over it several times


@dataclass(frozen=True)
class _Place:
    """How far a run is: the round, and the epochs done in it; -1 before its identification."""

    round: int = 1
    epochs: int = -1


class Repair:
    """The rounds, and the state between two epochs.

    Args:
        run: Of the calibration.
        sites: Channel sites.
        training_set: The training set.
        options: Options of NONE.

    Attributes:
        parameters: Present weights by initializer name.
        findings: What was found so far.
        curve: One entry an epoch.
        rounds_done: Rounds that repaired something.
        neurons_reset: Neurons that were started anew.
    """

    def __init__(self, run: Run, sites: Sequence[Site], training_set: CleanSet, options: Options) -> None:
        self.run, self.training_set, self.options = run, training_set, options
        self.layers = find_layers(run.classifier.model, sites)
        self.parameters = self._parameters(sites)
        self.findings = Findings()
        self.curve: list[Mapping[str, float]] = []
        self.rounds_done = self.neurons_reset = 0
        self._place = _Place()
        self._optimizer = torch.optim.Adam(list(self.parameters.values()), lr=options.learning_rate)

    @property
    def rewrite(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """The present weights for `Classifier.run`."""
        return as_rewrite(self.parameters)

    @property
    def benign(self) -> Indices:
        """Images that are not suspected."""
        return np.setdiff1d(self.training_set.everything, self.findings.indices)

    def rounds(self) -> None:
        """Go through the rounds, from the checkpoint on where one is resumed."""
        if self.options.resume:
            self._restore(read_checkpoint(self.options.checkpoint, self._fingerprint()))
        changes = self._changes() if self.options.augment else ()
        while self._place.round <= self.options.rounds:
            if self._place.epochs < 0 and not self._identify():
                return
            for epoch in range(self._place.epochs, self.options.epochs):
                self._epoch(epoch, changes)
                self._arrive(_Place(self._place.round, epoch + 1))
            self.rounds_done += 1
            self._arrive(_Place(self._place.round + 1))

    def changed(self) -> dict[str, NDArray[np.float32]]:
        """Weights that differ from the model's, by initializer name."""
        originals = self.run.classifier.graph.initializers
        return {
            name: np.ascontiguousarray(value.detach().float().cpu().numpy())
            for name, value in self.parameters.items()
            if not torch.equal(value.detach(), originals[name])
        }

    def _identify(self) -> bool:
        """Look for poisoned images among the benign ones; whether there are any new."""
        verdict = audit(
            self.run,
            self.layers,
            self.training_set,
            self.benign,
            self.options,
            rewrite=self.rewrite,
            description=f"none: round {self._place.round}, identify",
        )
        self.findings = self.findings.joined(findings_of(verdict))
        if not verdict.confirmed:
            self._place = _Place(self.options.rounds + 1)
            return False
        rng = np.random.default_rng((self.run.seed, self._place.round))
        if self.options.reset:
            self._reset(verdict, rng)
        self._optimizer.state.clear()
        self._arrive(_Place(self._place.round, 0))
        return True

    def _reset(self, verdict: Verdict, rng: np.random.Generator) -> None:
        groups = [group for group in verdict.groups if group.label in verdict.confirmed]
        self.neurons_reset += reinitialize(
            self.run.classifier,
            self.layers,
            self.parameters,
            list(dict.fromkeys(neuron for group in groups for neuron in group.neurons)),
            self.training_set,
            np.sort(rng.permutation(self.benign)[:_MOMENT_IMAGES]),
            batch_size=self.run.batch_size,
            rng=rng,
        )

    def _epoch(self, epoch: int, changes: Sequence[Augmentation]) -> None:
        """One pass over the images that are trained on."""
        options, labels, chosen = self.options, self.training_set.labels.copy(), self.benign
        if options.suspects == "relabel":
            labels[self.findings.indices] = [found.likely_label for found in self.findings.suspects]
            chosen = self.training_set.everything
        steps = max(_LEAST_STEPS, len(chosen) // options.minibatch)
        order, chance = np.random.default_rng((self.run.seed, self._place.round, epoch)).spawn(2)
        done, total = epoch * steps, options.epochs * steps
        shown = replace(self.run, progress=lambda what, step, _: self.run.progress(what, done + step, total))
        problem = _Epoch(self.run, self._optimizer, self.rewrite, options.learning_rate, done, total, changes, chance)
        schedule = Steps(steps, options.minibatch, steps, f"none: round {self._place.round}, fine-tune")
        _, mean = fit(shown, problem, replace(self.training_set, labels=labels, fit=chosen), schedule, rng=order)
        self.curve.append({"step": float(total * (self._place.round - 1) + done + steps), "loss": mean})

    def _changes(self) -> tuple[Augmentation, ...]:
        rng = np.random.default_rng(self.run.seed)
        everything = replace(self.training_set, fit=self.training_set.everything)
        return tolerated(self.run.classifier, everything, epsilon=_AUGMENTATION_EPSILON, rng=rng)

    def _parameters(self, sites: Sequence[Site]) -> dict[str, Tensor]:
        """Weights, biases, gamma and beta of all channel sites, as leaves that take gradients."""
        weights = [layer.weight.initializer if layer.weight else layer.site.weight for layer in self.layers]
        names = [*weights, *(name for layer in self.layers for name in (layer.scale, layer.shift))]
        given = self.run.classifier.graph.initializers
        main = {tensor.name for tensor in self.run.classifier.model.proto.graph.initializer}
        wanted = [name for name in dict.fromkeys(names) if name in given and name in main]
        return {name: given[name].clone().requires_grad_() for name in wanted if given[name].is_floating_point()}

    def _fingerprint(self) -> str:
        own = {
            part.name: getattr(self.options, part.name)
            for part in fields(self.options)
            if part.metadata.get("recorded", True)
        }
        run = {"model": self.run.classifier.model.sha256, "data": self.training_set.sha256, "options": own}
        text = json.dumps({**run, "seed": self.run.seed, "batch_size": self.run.batch_size}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _arrive(self, place: _Place) -> None:
        """Be at a place from which the run can go on."""
        self._place = place
        tensors = {f"weight.{name}": value for name, value in self.parameters.items()}
        for number, state in self._optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{key}": value for key, value in state.items()}
        values: dict[str, Any] = {
            "round": place.round,
            "epochs": place.epochs,
            "rounds_done": self.rounds_done,
            "neurons_reset": self.neurons_reset,
            "curve": self.curve,
            "findings": self.findings.as_json(),
        }
        write_checkpoint(self.options.checkpoint, self._fingerprint(), Checkpoint(values, tensors))

    def _restore(self, checkpoint: Checkpoint | None) -> None:
        if checkpoint is None:
            return
        values, given = checkpoint.values, list(self.parameters.values())
        self._place = _Place(values["round"], values["epochs"])
        self.rounds_done, self.neurons_reset = values["rounds_done"], values["neurons_reset"]
        self.curve, self.findings = list(values["curve"]), findings_from_json(values["findings"])
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in checkpoint.tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "weight":
                with torch.no_grad():
                    self.parameters[rest].copy_(value)
                continue
            number, _, key = rest.partition(".")
            like = given[int(number)]
            # In the parameter's memory order, in which a run without a stop has it.
            placed = torch.empty_like(like).copy_(value).detach() if value.shape == like.shape else value
            state.setdefault(int(number), {})[key] = placed
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": state, "param_groups": groups})


class _Epoch(Problem[float]):
    """The weights over one epoch; the last ones are kept, and the mean loss is given."""

    def __init__(
        self,
        run: Run,
        optimizer: torch.optim.Optimizer,
        rewrite: Rewrite,
        learning_rate: float,
        done: int,
        total: int,
        changes: Sequence[Augmentation],
        chance: np.random.Generator,
    ) -> None:
        self.optimizer = optimizer
        self._classifier, self._rewrite, self._changes, self._chance = run.classifier, rewrite, changes, chance
        self._learning_rate, self._done, self._total = learning_rate, done, total
        self._losses: list[Tensor] = []
        self._set_rate()

    def batch(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return apply_all(self._changes, images, self._chance), labels

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        value = torch.nn.functional.cross_entropy(self._classifier.logits(images, rewrite=self._rewrite), targets)
        self._losses.append(value.detach())
        return value

    def after_step(self) -> None:
        self._done += 1
        self._set_rate()

    def check(self, step: int) -> bool:
        return True

    def keep(self) -> float:
        return float(torch.stack(self._losses).mean())

    def _set_rate(self) -> None:
        """A cosine over all epochs of the round."""
        rate = 0.5 * self._learning_rate * (1 + math.cos(math.pi * self._done / self._total))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
