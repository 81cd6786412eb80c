# SPDX-License-Identifier: Apache-2.0
"""The installed wheel serves where only onnxruntime and NumPy are installed beside it."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import patcher
from patcher.runtime import GuardedSession
from tests.installation import lone_environment, run

SECONDS = 0.3


@pytest.fixture(scope="module")
def hardened(tmp_path_factory: pytest.TempPathFactory, samples: Path) -> Path:
    """The sample with a flag."""
    output = tmp_path_factory.mktemp("hardened") / "model.onnx"
    patcher.harden(samples / "digits.onnx", clean_dir=samples / "clean", flag=True, steps=5, output=output)
    return output


def environment(folder: Path, installed: Path, *distributions: str) -> Path:
    python = lone_environment(folder / "venv", *distributions)
    (packages,) = (folder / "venv").glob("lib/python*/site-packages")
    (packages / "patcher").symlink_to(installed / "patcher")
    return python


def test_a_service_needs_onnxruntime_and_numpy_alone(
    tmp_path: Path, installed: Path, hardened: Path, samples: Path
) -> None:
    python = environment(tmp_path, installed, "onnxruntime")
    for absent in ("torch", "onnx", "matplotlib", "PIL", "click"):
        assert subprocess.run([python, "-I", "-c", f"import {absent}"], capture_output=True).returncode == 1
    with np.load(samples / "triggered.npz") as file:
        images = file["images"][:40].transpose(0, 3, 1, 2).astype(np.float32) / 255
    np.save(tmp_path / "images.npy", images)
    program = (
        "import sys, json, numpy as np; from patcher.runtime import GuardedSession; from patcher.kept import Keeper; "
        "from patcher.flag_rate import FlagRate; images = np.load(sys.argv[2]); "
        "answers = GuardedSession(sys.argv[1]).classify(images); "
        "Keeper(sys.argv[3]).keep(images[answers.flags]); FlagRate(0.01).add(len(images), int(answers.flags.sum())); "
        "print(json.dumps([answers.labels.tolist(), answers.flags.tolist()]))"
    )
    found = run(python, "-I", "-c", program, hardened, tmp_path / "images.npy", tmp_path / "kept", cwd=tmp_path)
    expected = GuardedSession(hardened).classify(images)
    assert json.loads(found) == [expected.labels.tolist(), expected.flags.tolist()]
    assert expected.flags.any()


def test_pictures_need_pillow_besides(tmp_path: Path, installed: Path, hardened: Path) -> None:
    python = environment(tmp_path, installed, "onnxruntime", "pillow")
    stream = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(stream, "PNG")
    (tmp_path / "picture.png").write_bytes(stream.getvalue())
    program = (
        "import sys; from pathlib import Path; from patcher.runtime import GuardedSession; "
        "from patcher.pictures import preprocess_of, read_picture; session = GuardedSession(sys.argv[1]); "
        "inputs = read_picture(Path(sys.argv[2]).read_bytes(), preprocess_of(session.metadata), session.input.type); "
        "print(inputs.shape, session.classify(inputs).scores.shape)"
    )
    found = run(python, "-I", "-c", program, hardened, tmp_path / "picture.png", cwd=tmp_path)
    assert found == "(1, 1, 8, 8) (1, 10)\n"


def test_the_imports_of_a_service_are_quick(tmp_path: Path, installed: Path) -> None:
    python = environment(tmp_path, installed, "onnxruntime")
    # Processor time: what else the machine does must not decide. The first run compiles.
    program = "import time; import patcher.runtime, onnxruntime; print(time.process_time())"
    times = [float(run(python, "-I", "-c", program, cwd=tmp_path)) for _ in range(4)]
    assert min(times[1:]) < SECONDS
