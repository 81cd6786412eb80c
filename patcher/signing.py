# SPDX-License-Identifier: Apache-2.0
"""Signatures of model files, in the format of OpenSSF model signing (the library `model_signing`).

Is this the vendor's file, and is that the one we released? Keys and certificates are PEM files and nothing is asked of
the network. Signed is a model of one file; of a model with weights beside it the whole folder can be signed by
``model_signing`` itself, and such a signature is checked here.

A signature is checked and made on a private copy whose hash must be that of the model in memory: a file cannot be
another one for the library than for us.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patcher.errors import InputError
from patcher.files import Source, check_output, replace_file

SUFFIX = ".sig"
PASSWORD_VARIABLE = "PATCHER_KEY_PASSWORD"
_MISSING = "model-signing is not installed; run: pip install 'onnx-patcher[sign]'"
_LARGEST_FILE = 1 << 20
_LONGEST_REASON = 200
_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"


@dataclass(frozen=True)
class Signing:
    """Files to check a model's signature with, and to sign what is made of it.

    Attributes:
        signature: Signature of the model.
        public_key: Key that must have made it: a public key, or root certificates.
        sign_key: Private key (elliptic curve) to sign with; a password is taken from ``PATCHER_KEY_PASSWORD``.
        sign_certificate: Certificate of that key, where the signature is to be checked by certificates; the
            intermediate ones may follow in the same file.

    Raises:
        InputError: One of two that belong together is missing, or a file is not there.
    """

    signature: Source | None = None
    public_key: Source | None = None
    sign_key: Source | None = None
    sign_certificate: Source | None = None

    def __post_init__(self) -> None:
        if (self.signature is None) != (self.public_key is None):
            raise InputError(
                "a signature and its key expected, found one of the two: --signature goes with --public-key, "
                "--original-signature with --original-key"
            )
        if self.sign_certificate is not None and self.sign_key is None:
            raise InputError("--sign-certificate: the certificate's private key is needed too (--sign-key)")
        for file in (self.signature, self.public_key, self.sign_key, self.sign_certificate):
            if file is not None:
                _read(Path(file))
        if self.signature is not None or self.sign_key is not None:
            _library()

    def fault(self, model: Source, sha256: str) -> str:
        """What is wrong with the model's signature; empty where it is right, or none was given.

        Args:
            model: Path of the model.
            sha256: Its hash as it was read.
        """
        if self.signature is None or self.public_key is None:
            return ""
        signature, key = Path(self.signature), Path(self.public_key)
        config = _library().verifying.Config()
        try:
            if _CERTIFICATE in _read(key):
                config.use_certificate_verifier(certificate_chain=[key])
            else:
                config.use_elliptic_key_verifier(public_key=key)
            if _signed_files(signature) == ["."]:
                with _copied(Path(model), sha256) as copy:
                    config.verify(copy, signature)
            else:
                config.verify(Path(model).parent, signature)
        except InputError as error:
            return str(error)
        except Exception as error:  # the library lets those of others through
            return _one_line(error)
        return ""

    def require(self, model: Source, sha256: str) -> None:
        """Refuse a model whose signature is wrong.

        Raises:
            InputError: It is.
        """
        if fault := self.fault(model, sha256):
            raise InputError(f"{model}: its signature does not hold: {fault}")

    def sign(self, model: Path, sha256: str) -> Path | None:
        """Write the signature of a model beside it as ``<name>.sig``, where there is a key to sign with.

        Args:
            model: Path of the model.
            sha256: Its hash as it was judged.

        Raises:
            InputError: The key or certificate cannot be used, or the file cannot be written.
        """
        if self.sign_key is None:
            return None
        target = model.with_name(model.name + SUFFIX)
        check_output(target)
        config = _library().signing.Config()
        # The library is annotated with text, and hands on what takes bytes alone.
        password = os.environb.get(PASSWORD_VARIABLE.encode())
        with _copied(model, sha256) as copy:
            made = copy.with_name("signature")
            try:
                if self.sign_certificate is None:
                    config.use_elliptic_key_signer(private_key=self.sign_key, password=password)
                else:
                    # The first certificate of the file is the key's, the others are taken as its chain.
                    config.use_certificate_signer(
                        private_key=self.sign_key,
                        signing_certificate=self.sign_certificate,
                        certificate_chain=[self.sign_certificate],
                    )
                config.sign(copy, made)
            except Exception as error:  # the library lets those of others through
                raise InputError(f"--sign-key {self.sign_key}: cannot sign with it: {_one_line(error)}") from error
            replace_file(target, made.read_bytes())
        return target


def _library() -> Any:
    try:
        import model_signing
    except ImportError as error:
        raise InputError(_MISSING) from error
    return model_signing


def _read(path: Path) -> bytes:
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST_FILE:
            raise InputError(f"{path}: a key, certificate or signature of at most {_LARGEST_FILE >> 20} MiB expected")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def _signed_files(signature: Path) -> list[str]:
    """Names of the files that a signature says it is of; they decide only where to look."""
    payload = json.loads(_read(signature))["dsseEnvelope"]["payload"]
    return [str(item["name"]) for item in json.loads(base64.b64decode(payload))["predicate"]["resources"]]


@contextlib.contextmanager
def _copied(model: Path, sha256: str) -> Iterator[Path]:
    """A private copy of a model of one file, if it is still the one that was read."""
    with tempfile.TemporaryDirectory(prefix="patcher-") as folder:
        # In a folder of its own: the copy keeps its name, which goes into the signature.
        copy = Path(folder) / "model" / model.name
        copy.parent.mkdir()
        shutil.copyfile(model, copy)
        with copy.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != sha256:
                raise InputError("it is no model of one file, or was changed since it was read")
        yield copy


def _one_line(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:_LONGEST_REASON]
