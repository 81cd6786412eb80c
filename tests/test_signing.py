# SPDX-License-Identifier: Apache-2.0
"""Models are signed and their signatures checked with real keys, and nothing asked of the network."""

from __future__ import annotations

import datetime
import hashlib
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.external_data_helper import convert_model_to_external_data

from patcher._cli import main
from patcher.errors import InputError
from patcher.model.file import load_file
from patcher.signing import Signing
from tests.gate.test_methods import FAST
from tests.tiny_models import images, residual_model

pytest.importorskip("model_signing")
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import ec


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object, **kwargs: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.delenv("PATCHER_KEY_PASSWORD", raising=False)


@dataclass(frozen=True)
class Keys:
    """A private key and its public one."""

    private: Path
    public: Path
    key: ec.EllipticCurvePrivateKey


def make_keys(folder: Path, name: str, password: bytes | None = None) -> Keys:
    key = ec.generate_private_key(ec.SECP256R1())
    found = Keys(folder / f"{name}.pem", folder / f"{name}.pub.pem", key)
    locked = form.BestAvailableEncryption(password) if password else form.NoEncryption()
    found.private.write_bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, locked))
    public = key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    found.public.write_bytes(public)
    return found


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return make_keys(tmp_path, "ours")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(residual_model(), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def signed(model: Path, keys: Keys, **options: Path) -> Path:
    found = Signing(sign_key=keys.private, **options).sign(model, load_file(model)[1])
    assert found == model.with_name("model.onnx.sig")
    return found


def fault(model: Path, signature: Path, key: Path) -> str:
    return Signing(signature, key).fault(model, load_file(model)[1])


def test_a_signature_holds_for_its_key_and_its_bytes(model: Path, keys: Keys, tmp_path: Path) -> None:
    signature = signed(model, keys)
    assert fault(model, signature, keys.public) == ""
    (tmp_path / "elsewhere.onnx").write_bytes(model.read_bytes())
    assert fault(tmp_path / "elsewhere.onnx", signature, keys.public) == ""
    assert "Key mismatch" in fault(model, signature, make_keys(tmp_path, "theirs").public)
    onnx.save(residual_model(dtype=np.float16), model)
    assert "Hash mismatch" in fault(model, signature, keys.public)


def test_what_was_read_is_what_was_signed(model: Path, keys: Keys) -> None:
    signature = signed(model, keys)
    assert "changed" in Signing(signature, keys.public).fault(model, "0" * 64)
    with pytest.raises(InputError, match="changed"):
        Signing(sign_key=keys.private).sign(model, "0" * 64)


@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 100_000, b"\xff\xfe", b'{"dsseEnvelope": {"payload": "!"}}'])
def test_files_that_are_no_signatures(model: Path, keys: Keys, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.sig").write_bytes(content)
    found = fault(model, tmp_path / "x.sig", keys.public)
    assert found
    assert "\n" not in found


def test_files_that_are_no_keys(model: Path, keys: Keys, tmp_path: Path) -> None:
    signature = signed(model, keys)
    assert fault(model, signature, model)
    with pytest.raises(InputError, match="cannot sign with it"):
        signed(model, Keys(keys.public, keys.public, keys.key))
    for wrong in (
        {"signature": signature},
        {"public_key": keys.public},
        {"sign_certificate": keys.public},
        {"sign_key": tmp_path / "none.pem"},
        {"signature": tmp_path, "public_key": keys.public},
    ):
        with pytest.raises(InputError):
            Signing(**wrong)


def test_a_key_with_a_password(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = make_keys(tmp_path, "locked", b"secret")
    with pytest.raises(InputError, match="cannot sign with it"):
        signed(model, keys)
    monkeypatch.setenv("PATCHER_KEY_PASSWORD", "secret")
    assert fault(model, signed(model, keys), keys.public) == ""


def certificate(subject: str, keys: Keys, issuer: str, by: Keys, *, authority: bool) -> x509.Certificate:
    names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in (subject, issuer)]
    today = datetime.datetime.now(datetime.UTC)
    usage = dict.fromkeys(
        ["content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"], False
    )
    usage |= {"decipher_only": False, "digital_signature": True, "key_cert_sign": authority, "crl_sign": authority}
    return (
        x509.CertificateBuilder(names[1], names[0], keys.key.public_key(), x509.random_serial_number())
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(keys.key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.key.public_key()), critical=False)
        .sign(by.key, hashes.SHA256())
    )


def test_certificates(model: Path, keys: Keys, tmp_path: Path) -> None:
    root = make_keys(tmp_path, "root")
    files = {
        "leaf": certificate("ours", keys, "root", root, authority=False),
        "root": certificate("root", root, "root", root, authority=True),
    }
    for name, item in files.items():
        (tmp_path / f"{name}.crt").write_bytes(item.public_bytes(form.Encoding.PEM))
    signature = signed(model, keys, sign_certificate=tmp_path / "leaf.crt")
    assert fault(model, signature, tmp_path / "root.crt") == ""
    other = make_keys(tmp_path, "other")
    strange = certificate("root", other, "root", other, authority=True)
    (tmp_path / "strange.crt").write_bytes(strange.public_bytes(form.Encoding.PEM))
    assert fault(model, signature, tmp_path / "strange.crt")
    with pytest.raises(InputError, match="cannot sign with it"):
        signed(model, keys, sign_certificate=keys.public)


def test_a_folder_that_the_vendor_signed(keys: Keys, tmp_path: Path) -> None:
    from model_signing.signing import Config

    folder = tmp_path / "release"
    folder.mkdir()
    proto = residual_model()
    convert_model_to_external_data(proto, location="weights.bin", size_threshold=0)
    onnx.save(proto, folder / "model.onnx")
    Config().use_elliptic_key_signer(private_key=keys.private).sign(folder, tmp_path / "folder.sig")
    assert fault(folder / "model.onnx", tmp_path / "folder.sig", keys.public) == ""
    with pytest.raises(InputError, match="one file"):
        signed(folder / "model.onnx", keys)
    (folder / "more.onnx").write_bytes(b"")
    assert "Extra files" in fault(folder / "model.onnx", tmp_path / "folder.sig", keys.public)


def test_without_the_library(model: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(InputError, match=r"onnx-patcher\[sign\]"):
        Signing(sign_key=keys.private)


def test_harden_and_verify(model: Path, keys: Keys, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = (images(64).transpose(0, 2, 3, 1) * 255).astype(np.uint8)
    np.savez(tmp_path / "clean.npz", images=pixels, labels=np.arange(64) % 4)
    vendor, out = make_keys(tmp_path, "vendor"), tmp_path / "out.onnx"
    signature = signed(model, vendor)
    shared = ["--clean-dir", str(tmp_path / "clean.npz"), "--accuracy-floor", "0", "--quiet"]
    steps = [f for name in ("steps", "minibatch", "epsilon") for f in (f"--{name}", str(FAST[name]))]
    command = ["harden", str(model), *shared, *steps, "--signature", str(signature), "-o", str(out)]
    command += ["--min-agreement", "0", "--min-held-out", "1"]
    assert main([*command, "--public-key", str(keys.public)]) == 2
    assert "Key mismatch" in capsys.readouterr().err
    assert not out.exists()
    assert main([*command, "--public-key", str(vendor.public), "--sign-key", str(keys.private)]) == 0
    assert fault(out, out.with_name("out.onnx.sig"), keys.public) == ""

    checked = ["verify", str(model), str(out), *shared, "--json", "--original-signature", str(signature)]
    checked += ["--original-key", str(vendor.public), "--signature", str(out) + ".sig", "--public-key"]
    capsys.readouterr()
    for key, status in ((keys, "pass"), (vendor, "fail")):
        main([*checked, str(key.public)])
        assert f'"name": "signature",\n      "status": "{status}"' in capsys.readouterr().out


def test_only_what_passes_is_signed(
    model: Path, keys: Keys, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "clean.npz", images=np.zeros((64, 8, 8, 3), np.uint8), labels=np.arange(64) % 4)
    shared = ["--clean-dir", str(tmp_path / "clean.npz"), "--accuracy-floor", "0", "--sign-key", str(keys.private)]
    assert main(["verify", str(model), str(model), *shared]) == 1
    assert not model.with_name("model.onnx.sig").exists()
    assert hashlib.sha256(model.read_bytes()).hexdigest() not in capsys.readouterr().out
