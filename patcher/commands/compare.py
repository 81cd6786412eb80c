# SPDX-License-Identifier: Apache-2.0
"""Several methods on one model, side by side; the best one under the accuracy condition is written.

The best is the one with the lowest attack success among those whose report passes, on the user's triggered
images; equal ones go by held-out accuracy. Without triggered images nothing here measures what is left of a
backdoor: then it is the first method, in the order given, that passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from patcher.calibrate.stack import AUTO, stacks_of
from patcher.commands.harden import HardenResult, harden
from patcher.errors import InputError, NotApplicableError
from patcher.files import Source, check_output
from patcher.progress import Progress
from patcher.report.comparison import Compared, write_comparison
from patcher.report.folder import check_report_dir, make_folder
from patcher.steps.fit import relevant


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
        results: By method, in the order given.
        failures: Methods that could not be applied, with the reason.
        best: Name of the method to use; ``None`` where none passed.
        reason: Why that one.
    """

    results: Mapping[str, HardenResult]
    failures: Mapping[str, str]
    best: str | None
    reason: str

    @property
    def passed(self) -> bool:
        """Whether a method met its conditions."""
        return self.best is not None

    @property
    def verdict(self) -> Literal["pass", "fail"]:
        """``pass`` or ``fail``."""
        return "pass" if self.passed else "fail"

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the best is the best, or why none is."""
        return (self.reason,)

    def header(self) -> tuple[str, ...]:
        """Column titles of `rows`."""
        return self.compared.header()

    def rows(self) -> list[tuple[str, ...]]:
        """One row a quantity, one column a method."""
        return self.compared.rows()

    @property
    def compared(self) -> Compared:
        """The same as the reports show it."""
        documents = {name: result.report.as_json() for name, result in self.results.items()}
        return Compared(documents, self.failures, self.best, self.reason)


def compare(
    model: Source,
    *,
    clean_dir: Source,
    methods: Sequence[str],
    output: Source | None = None,
    report_dir: Source | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Comparison:
    """Harden with each method, put the results side by side, write the best.

    Args:
        model: Path of an ONNX image classifier.
        clean_dir: Clean images; see `patcher.data.clean_set`.
        methods: Names of methods, at least two, or ``auto`` alone, whose candidates are shown.
        output: Where to write the best model; nothing is written there when no method passes.
        report_dir: Where to write ``comparison.md``, ``comparison.html`` and a report folder for each method.
        progress: Told of each step.
        options: Further arguments of `patcher.harden`; an option goes to every method that has it.

    Raises:
        InputError: A file, folder or option cannot be used.
        NotApplicableError: The model has no site for any of the methods.
        PatcherError: As `patcher.harden`.
    """
    if len(set(methods)) < len(methods) or (len(methods) < 2 and AUTO not in methods):
        raise InputError(
            f"--method: two or more different methods, or {AUTO}, expected, found {', '.join(methods) or 'none'}"
        )
    check_output(output, model)
    check_report_dir(report_dir)
    own = {name: _options_of(name, options) for name in methods}
    if report_dir is not None:
        make_folder(Path(report_dir))
    results: dict[str, HardenResult] = {}
    failures: dict[str, str] = {}
    for name in methods:
        folder = Path(report_dir) / name if report_dir is not None else None
        try:
            results[name] = harden(
                model, clean_dir=clean_dir, method=name, report_dir=folder, progress=progress, **own[name]
            )
        except NotApplicableError as error:
            failures[name] = str(error)
    if not results:
        raise NotApplicableError("; ".join(failures.values()))
    best, reason = choose_best({name: result.as_json() for name, result in results.items()})
    comparison = Comparison(results, failures, best, reason)
    if report_dir is not None:
        write_comparison(comparison.compared, Path(report_dir))
    if best is not None and output is not None:
        results[best].save(output)
    return comparison


_HARDEN = ("triggered", "target", "preprocess", "bake")


def _options_of(method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """What of the options a method takes."""
    given = {name: value for name, value in options.items() if name in _HARDEN}
    return given | {name: value for stack in stacks_of(method) for name, value in relevant(stack, options).items()}


def choose_best(reports: Mapping[str, Mapping[str, Any]]) -> tuple[str | None, str]:
    """The method to use, and why.

    Args:
        reports: ``report.json`` of each method, in order.
    """
    passed = {name: report for name, report in reports.items() if report["verdict"] == "pass"}
    if not passed:
        return None, "no method met the accuracy condition; nothing was written under the output's name"
    attacks = {name: report["after"].get("attack") for name, report in passed.items()}
    if not all(attacks.values()):
        first = next(iter(passed))
        return first, f"{first}: the first that met the accuracy condition; give --triggered to compare attacks"

    def quality(name: str) -> tuple[float, float]:
        after = passed[name]["after"]
        accuracy = after["held_out"] if after["held_out"]["count"] else after["fit"]
        return attacks[name]["ASR"]["value"], -accuracy["value"]

    best = min(passed, key=quality)
    return best, f"{best}: the lowest attack success among those that met the accuracy condition"
