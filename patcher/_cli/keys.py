# SPDX-License-Identifier: Apache-2.0
"""Flags for signatures and keys."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from patcher._cli.help import option

_FILES = ("signature", "public_key", "sign_key", "sign_certificate")
_KEY = "PEM of the key that must have made it, or of root certificates."


def signing_options(model: str, signed: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the flags for a signature that is checked and one that is made; the command gets one ``signing``.

    Args:
        model: Whose signature is checked.
        signed: What is signed, and when.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @option("--signature", section="Files", type=click.Path(), help=f"Signature of {model} (model-signing).")
        @option("--public-key", section="Files", type=click.Path(), help=_KEY)
        @option("--sign-key", section="Output", type=click.Path(), help=f"Private key, PEM: signs {signed}.")
        @option("--sign-certificate", section="Output", type=click.Path(), help="The key's certificates, PEM.")
        @functools.wraps(command)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            from patcher.signing import Signing

            signing = Signing(**{name: kwargs.pop(name) for name in _FILES})
            return command(*args, signing=signing, **kwargs)

        return wrapped

    return decorate


def original_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the flags for the signature of the original; the command gets one ``original_signing``."""

    @option("--original-signature", section="Files", type=click.Path(), help="Signature of ORIGINAL (model-signing).")
    @option("--original-key", section="Files", type=click.Path(), help=_KEY)
    @functools.wraps(command)
    def wrapped(*args: Any, original_signature: str | None, original_key: str | None, **kwargs: Any) -> Any:
        from patcher.signing import Signing

        return command(*args, original_signing=Signing(original_signature, original_key), **kwargs)

    return wrapped
