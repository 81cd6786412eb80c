# SPDX-License-Identifier: Apache-2.0
"""What a worker does with a task: files in, files out; nothing is written anywhere else.

The model and the images of the last task stay in memory: tasks of one model follow one another where they can.
"""

from __future__ import annotations

import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patcher.calibrate.scan.figures import SingleSource
from patcher.calibrate.scan.parts import FamilyFigures, Ranking, join
from patcher.commands.harden import harden
from patcher.commands.scan import OpenScan, open_scan
from patcher.commands.verify import verify
from patcher.errors import PatcherError
from patcher.fleet.codec import pack, unpack
from patcher.fleet.content import read_files, write_files
from patcher.fleet.task import Failure, Files, Kind, Outcome, Task, below
from patcher.model.inputs import refuse_arrays

FIGURES = "figures.npz"


@dataclass(frozen=True)
class Alone:
    """What a task of single sources found."""

    found: tuple[SingleSource, ...]


def attempt(task: Task, inputs: Files) -> Outcome:
    """Do a task; whatever goes wrong is an outcome."""
    started = time.perf_counter()

    def ended(result: Files | Failure) -> Outcome:
        return Outcome(result, time.perf_counter() - started)

    try:
        return ended(_DO[task.kind](task, inputs))
    except PatcherError as error:
        return ended(Failure(str(error), error.exit_code))
    except MemoryError:
        return ended(Failure("out of memory; lower batch_size", log=traceback.format_exc()))
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        return ended(Failure(f"unexpected {type(error).__name__}: {reason}", log=traceback.format_exc()))


def _ranking(task: Task, inputs: Files) -> Files:
    return {FIGURES: pack(_opened(task).stages.ranking())}


def _family(task: Task, inputs: Files) -> Files:
    ranking = unpack(Ranking, inputs[f"ranking/{FIGURES}"])
    return {FIGURES: pack(_opened(task).stages.family(task.detail[0], ranking.targets))}


def _source(task: Task, inputs: Files) -> Files:
    family, target = task.detail
    return {FIGURES: pack(Alone(_opened(task).stages.alone(family, int(target))))}


def _judge(task: Task, inputs: Files) -> Files:
    """Join what the others found, in the order of the scan, however it came."""
    opened = _opened(task)
    ranking = unpack(Ranking, inputs[f"ranking/{FIGURES}"])
    names = opened.stages.families
    families = [unpack(FamilyFigures, inputs[f"family/{name}/{FIGURES}"]) for name in names]
    alone = [
        item
        for name in names
        for target in ranking.alone
        for item in unpack(Alone, inputs[f"source/{name}/{target}/{FIGURES}"]).found
    ]
    seconds = sum(part.searched.seconds for part in families)
    with tempfile.TemporaryDirectory() as folder:
        opened.judge(join(ranking, families, alone), seconds, folder)
        return read_files(Path(folder))


def _harden(task: Task, inputs: Files) -> Files:
    arguments = dict(task.arguments)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        if scanned := below(inputs, "judge"):
            write_files(scanned, place / "scan")
            arguments["scan"] = str(place / "scan" / "scan.json")
        made = place / "made"
        made.mkdir()
        output = made / f"{Path(arguments['model']).stem}.hardened.onnx"
        harden(**arguments, method=task.detail[0], output=output, report_dir=made / "report")
        return read_files(made)


def _verify(task: Task, inputs: Files) -> Files:
    arguments = dict(task.arguments)
    original = arguments.pop("model")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_files(inputs, place)
        hardened = next((place / "harden").glob("*.hardened.onnx"))
        triggers = place / "judge" / "triggers.npz"
        result = verify(
            original,
            hardened,
            patch=place / "harden" / "report" / "patch.safetensors",
            triggers=triggers if triggers.is_file() else None,
            **arguments,
        )
        result.write(place / "report", hardened)
        return read_files(place / "report")


_DO: Mapping[Kind, Callable[[Task, Files], Files]] = {
    "ranking": _ranking,
    "family": _family,
    "source": _source,
    "judge": _judge,
    "harden": _harden,
    "verify": _verify,
}


class _Open:
    """The scan that was opened last."""

    of: tuple[Mapping[str, Any], tuple[str, ...]] | None = None
    scan: OpenScan | None = None


def _opened(task: Task) -> OpenScan:
    wanted = (task.arguments, task.digests)
    if _Open.scan is None or _Open.of != wanted:
        _Open.scan = None  # before the next is read: two models need not fit
        opened = open_scan(**task.arguments)
        refuse_arrays(opened.prepared.model.kind, "fleet: scan")
        _Open.scan, _Open.of = opened, wanted
    return _Open.scan
