# SPDX-License-Identifier: Apache-2.0
"""Flags that several commands share, declared once."""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal

import click

from patcher._cli.help import Use, option
from patcher._cli.values import MethodName, Numbers, Size, TargetClass
from patcher.calibrate import METHODS
from patcher.calibrate.stack import stacks_of
from patcher.errors import InputError
from patcher.runtime import CPU_PROVIDER
from patcher.tasks import AUTO, task_names

Command = Callable[..., Any]
_PREPROCESS = ("preprocess_file", "size", "mean", "std", "layout", "color", "value_range")


def preprocess_options(command: Command) -> Command:
    """Add the preprocessing flags; the command gets one mapping ``preprocess``."""
    section = "Preprocessing"

    @option(
        "--preprocess",
        "preprocess_file",
        section=section,
        type=click.Path(),
        help="JSON of timm, Hugging Face or torchvision, or keras:tf|caffe|torch.",
    )
    @option("--size", section=section, type=Size(), help="Resize pictures to HEIGHTxWIDTH pixels, e.g. 224 or 32x48.")
    @option(
        "--mean", section=section, type=Numbers(), help="Per channel, after scaling to 0-1, e.g. 0.485,0.456,0.406."
    )
    @option("--std", section=section, type=Numbers(), help="Per channel, e.g. 0.229,0.224,0.225.")
    @option("--layout", section=section, type=click.Choice(["NCHW", "NHWC"]), help="Axis order. [default: as it is]")
    @option("--color", section=section, type=click.Choice(["RGB", "BGR"]), help="Channel order. [default: RGB]")
    @option("--range", "value_range", section=section, metavar="[0-1|0-255|LOW:HIGH]", help="Values the model takes.")
    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        given = {name: kwargs.pop(name) for name in _PREPROCESS}
        given["file"], given["range"] = given.pop("preprocess_file"), given.pop("value_range")
        return command(*args, preprocess=given, **kwargs)

    return wrapped


def data_options(command: Command) -> Command:
    """Add the flags that say how labelled images are read and measured."""
    images, run = "Clean images", "Run"
    for decorate in reversed(
        [
            scores_option,
            option("--classes", "classes_file", section=images, type=click.Path(), help="Class names, one a line."),
            option("--limit-per-class", section=images, type=int, help="Use at most so many images a class."),
            option(
                "--pseudo-labels/--no-pseudo-labels", section=images, help="Take the model's own answers as labels."
            ),
            option(
                "--task",
                section=images,
                type=click.Choice([AUTO, *task_names()]),
                default=AUTO,
                show_default=True,
                help="What the scores mean; auto: as the labels are.",
            ),
            option("--accuracy-floor", section=images, type=float, help="Refuse below it. [default: 2 x chance]"),
            option("--seed", section=run, type=int, default=0, show_default=True, help="Of everything random."),
            option(
                "--batch-size", section=run, type=int, default=128, show_default=True, help="Images at a time at most."
            ),
            option(
                "--providers",
                section=run,
                default=CPU_PROVIDER,
                show_default=True,
                help="ONNX Runtime execution providers, separated by commas.",
            ),
        ]
    ):
        command = decorate(command)
    return command


def scores_option(command: Command) -> Command:
    """Add ``--scores``."""
    text = "The output with the class scores. [default: found by data flow]"
    return option("--scores", section="Files", metavar="NAME", help=text)(command)


def clean_dir_option(*, required: bool = True) -> Callable[[Command], Command]:
    """Add ``--clean-dir``."""
    return option(
        "--clean-dir",
        section="Clean images",
        required=required,
        help="Labelled clean data: folder a class, labels.csv, COCO, VOC, .npz, .parquet, .tar, or module:function.",
    )


def report_dir_option(text: str) -> Callable[[Command], Command]:
    """Add ``--report-dir``."""
    return option("--report-dir", section="Files", type=click.Path(), help=text)


def output_option(text: str, *, required: bool = False) -> Callable[[Command], Command]:
    """Add ``-o/--output``."""
    return option("-o", "--output", section="Files", required=required, type=click.Path(), help=text)


def device_option(command: Command) -> Command:
    """Add ``--device``."""
    return option("--device", section="Run", default="auto", show_default=True, help="auto, cpu or cuda.")(command)


def quiet_option(command: Command) -> Command:
    """Add ``-q/--quiet``."""
    text = "No progress and no tables; what fails is still said on stderr."
    return option("-q", "--quiet", section="Output", is_flag=True, help=text)(command)


def json_option(command: Command) -> Command:
    """Add ``--json``."""
    return option("--json", "as_json", section="Output", is_flag=True, help="Print as JSON.")(command)


def bake_option(command: Command) -> Command:
    """Add ``--bake``."""
    return option(
        "--bake",
        section="Output",
        type=click.Choice(["nodes", "folded", "auto"]),
        default="auto",
        show_default=True,
        help="Bounds as nodes, folded into the weights, or folded where that is cheaper.",
    )(command)


def triggered_options(command: Command) -> Command:
    """Add the flags for triggered test images."""
    section = "Files"
    command = option(
        "--target", section=section, type=TargetClass(), help="The attacker's class, all-to-all, or remove-LABEL."
    )(command)
    return option(
        "--triggered", section=section, type=click.Path(), help=".npz of triggered images and labels; only scored."
    )(command)


def method_options(command: Command) -> Command:
    """Add ``--method`` and `method_flags`."""
    return option(
        "--method",
        section="Method",
        type=MethodName(),
        default="unit",
        show_default=True,
        help="How to repair: auto scans and chooses; unit+bna is one on top of another.",
    )(method_flags(command))


def method_flags(command: Command) -> Command:
    """Add ``--device`` and the options of every registered method.

    A flag that several methods share is declared once; only flags that were given are handed on.
    """
    for name, uses in reversed(_method_flags().items()):
        command = _flag(name, uses, section="Method")(command)
    return device_option(command)


def dataclass_options(options: type[Any]) -> Callable[[Command], Command]:
    """Add a flag for each field of a dataclass of options."""

    def decorate(command: Command) -> Command:
        for name, use in reversed(_uses(options, "").items()):
            command = _flag(name, [use], section="Method")(command)
        return command

    return decorate


def provider_names(text: str) -> tuple[str, ...]:
    """``--providers`` as the library takes it."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def given_options(method: str | Sequence[str], values: dict[str, Any]) -> dict[str, Any]:
    """Drop flags that were not given, and check that the rest belong to the method, or to one of several.

    Raises:
        InputError: A flag of another method was given.
    """
    given = [method] if isinstance(method, str) else method
    flags, methods = _method_flags(), {part for name in given for stack in stacks_of(name) for part in stack.names}
    for name, value in values.items():
        if name in flags and value is not None and not methods & {use.method for use in flags[name]}:
            others, found = (", ".join(sorted(names)) for names in ({use.method for use in flags[name]}, methods))
            raise InputError(f"--{name.replace('_', '-')}: belongs to --method {others}, found --method {found}")
    return {name: value for name, value in values.items() if name not in flags or value is not None}


@dataclass(frozen=True)
class _Declared:
    """One method's declaration of a flag."""

    method: str
    kind: Any
    default: Any
    help: str


@functools.cache
def _method_flags() -> dict[str, list[_Declared]]:
    flags: dict[str, list[_Declared]] = {}
    for method in METHODS.values():
        for name, use in _uses(method.options(), method.name).items():
            flags.setdefault(name, []).append(use)
    return flags


def _uses(options: type[Any], method: str) -> dict[str, _Declared]:
    """Each field of a dataclass of options as a flag."""
    hints = typing.get_type_hints(options)
    return {
        part.name: _Declared(
            method, hints[part.name], None if part.default is MISSING else part.default, part.metadata.get("help", "")
        )
        for part in fields(options)
    }


def _flag(name: str, declared: Sequence[_Declared], *, section: str) -> Callable[[Command], Command]:
    flag, kind = f"--{name.replace('_', '-')}", declared[0].kind
    first = f"{declared[0].help}  [default: {_shown(declared[0].default)}]"
    settings: dict[str, Any] = {
        "section": section,
        "default": None,
        "help": first,
        "uses": {item.method: Use(item.help, _shown(item.default)) for item in declared if item.method},
    }
    if kind is bool:
        return option(f"{flag}/--no-{flag[2:]}", name, **settings)
    if typing.get_origin(kind) is tuple:
        return option(flag, name, multiple=True, **settings)
    choices = dict.fromkeys(choice for item in declared for choice in _choices(item.kind))
    return option(flag, name, type=click.Choice(list(choices)) if choices else _plain(kind), **settings)


def _choices(kind: Any) -> tuple[str, ...]:
    return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()


def _plain(kind: Any) -> type:
    """``int | None`` to ``int``."""
    if isinstance(kind, types.UnionType):
        kind = next(part for part in typing.get_args(kind) if part is not types.NoneType)
    return kind if isinstance(kind, type) else str


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    if default == ():
        return "all"
    return "none" if default is None else str(default)
