# SPDX-License-Identifier: Apache-2.0
"""WebDataset shards: tar archives in which a picture and its label have one name and two endings.

    000001.jpg  000001.cls  000002.jpg  000002.cls ...

The label is the text of ``.cls``, a class index or name; other endings are not read. Nothing is unpacked to disk, and
links and devices in an archive are passed over.
"""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from patcher.data.encoded import MOST_BYTES, Encoded, Names, to_pictures
from patcher.data.image_sources import PICTURE_SUFFIXES, Pictures
from patcher.data.preprocess import Preprocess
from patcher.errors import InputError

_LABEL = ".cls"
_LONGEST_LABEL = 1000  # bytes


def read_webdataset(
    shards: Sequence[Path], source: Path, num_classes: int, preprocess: Preprocess, class_names: Names
) -> Pictures:
    """Read the pictures and labels of shards, in their order.

    Args:
        shards: Tar files, uncompressed.
        source: For messages: the file or folder that was given.
        num_classes: Of the model.
        preprocess: How pictures are resized.
        class_names: Of ``--classes``.

    Raises:
        InputError: A shard is damaged, or a sample has no label or two pictures.
    """
    items: list[Encoded] = []
    room = MOST_BYTES
    for shard in shards:
        pictures, labels = _read(shard, room)
        for key, (name, content) in pictures.items():
            room -= len(content)
            items.append(Encoded(f"{shard.name}/{name}", content, labels.get(key)))
    return to_pictures(items, source, preprocess, num_classes, class_names)


def _read(shard: Path, room: int) -> tuple[dict[str, tuple[str, bytes]], dict[str, str]]:
    """Pictures and labels of a shard by the name that both have."""
    pictures: dict[str, tuple[str, bytes]] = {}
    labels: dict[str, str] = {}
    try:
        # Without compression: an archive cannot unpack to more than its own size.
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                path = PurePosixPath(member.name)
                stem, dot, ending = path.name.partition(".")
                key, suffix = str(path.parent / stem), f"{dot}{ending}".lower()
                stream = archive.extractfile(member) if member.isfile() else None
                if stream is None or suffix not in (*PICTURE_SUFFIXES, _LABEL):
                    continue
                if suffix == _LABEL:
                    labels[key] = stream.read(_LONGEST_LABEL).decode("utf-8").strip()
                    continue
                room -= member.size
                if room < 0:
                    raise InputError(f"{shard}: pictures of at most {MOST_BYTES >> 30} GiB expected; give fewer")
                if key in pictures:
                    raise InputError(f"{shard}: one picture a sample expected, found two of {key}")
                pictures[key] = (member.name, stream.read())
    except (tarfile.TarError, OSError, UnicodeDecodeError, ValueError, EOFError) as error:
        raise InputError(f"{shard}: cannot be read as an uncompressed tar archive ({error})") from error
    return pictures, labels
