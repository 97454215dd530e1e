"""Build one shard of pictures from a folder or a zip: original bytes kept, labels as columns, nothing lost unseen.

Where a picture lies is not known, so its row has no place, and its GSD is what the spec says of all of them. A file that
is damaged or missing is counted and named like a refused chip. What decoding does to a picture (grey or a palette made
RGB, alpha dropped, a camera's orientation not applied) is a flag of its row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from geodata import codec
from geodata.archive import Files, opened
from geodata.build import created_by
from geodata.codec import Encoded
from geodata.errors import Corrupt, Missing
from geodata.folders import FolderShard, FolderSpec
from geodata.likeness import perceptual_of
from geodata.sample import FileMeta, Layer, Sample
from geodata.sensors import PHOTO
from geodata.shards import (
    Reject,
    ShardRecord,
    load_record,
    open_shard,
    save_record,
    shard_path,
    verify_shard,
    write_shard,
)
from geodata.source import at_home

UNLABELLED = "unlabelled"
"""The stratum of pictures without a label."""


class Made(Protocol):
    """Settings that a corpus is made of."""

    @property
    def address(self) -> str:
        """name@version."""
        ...

    @property
    def fingerprint(self) -> str:
        """What the settings decide."""
        ...


def import_shard(
    shard: FolderShard, spec: FolderSpec, classes: Mapping[str, tuple[str, ...]], root: Path
) -> ShardRecord:
    """Read, check, write and read back one shard of the corpus at `root`, record last; a sealed one stays as it is.

    Every picture ends as a row or as a reject: 'corrupt', 'missing'. Raises Missing and Corrupt when the folder or zip
    as a whole is not to be read, ValueError when `root` holds another corpus.
    """
    done = sealed(shard, spec, root)
    if done is not None:
        return done
    rejects: list[Reject] = []
    meta = FileMeta((PHOTO,), tuple(classes), spec.address, spec.fingerprint, created_by(), {**classes})
    path = shard_path(root, shard.name)
    with opened(Path(at_home(spec.root)), spec.limits) as files:
        record = write_shard(path, _samples(shard, spec, classes, files, rejects), meta, rejects)
    record = verify_shard(path, record)
    save_record(root, record)
    return record


def sealed(shard: FolderShard, spec: Made, root: Path) -> ShardRecord | None:
    """The record of a shard that is there and holds exactly the planned pictures; None when it must be made.

    Raises ValueError when it belongs to another corpus.
    """
    try:
        record = load_record(root, shard.name)
        if record is None:
            return None
        file, meta = open_shard(shard_path(root, shard.name), record.footer_sha256)
        file.close()
    except (Corrupt, Missing):
        return None
    if meta.fingerprint != spec.fingerprint:
        raise ValueError(
            f"{shard_path(root, shard.name)} belongs to {meta.corpus}, made by other settings than {spec.address}; "
            "raise the version, or choose another folder"
        )
    held = {reject.chip_id for reject in record.rejects} | {str(one["sample_id"]) for one in record.samples}
    return record if held == {one.sample_id for one in shard.pictures} else None


def _samples(
    shard: FolderShard,
    spec: FolderSpec,
    classes: Mapping[str, tuple[str, ...]],
    files: Files,
    rejects: list[Reject],
) -> Iterator[Sample]:
    """Pictures one by one; those that cannot be read are added to `rejects`."""
    for one in shard.pictures:
        try:
            layer = _layer(files.read(one.path), one.path, spec)
        except (Corrupt, Missing) as error:
            reason = "missing" if isinstance(error, Missing) else "corrupt"
            rejects.append(Reject(one.sample_id, reason, f"{one.path}: {error}"))
            continue
        labels = dict(zip(classes, one.labels, strict=True))
        stratum = classes["class"][labels["class"]] if labels else UNLABELLED
        nowhere = float("nan")
        yield Sample(one.sample_id, one.split, nowhere, nowhere, None, stratum, {"hr": layer}, labels=labels)


def _layer(data: bytes, path: str, spec: FolderSpec) -> Layer:
    """A picture as the one layer of its sample. Raises Corrupt."""
    mime = codec.mime_of(data)
    if mime is None:
        raise Corrupt(
            f"its first bytes {data[:8]!r} are those of no picture that is read ({', '.join(codec.MIMES)})"
        )
    encoded = Encoded(mime, ((data,),))
    pixels = codec.decoded(encoded)
    return Layer(
        PHOTO,
        pixels[None],
        (None,),
        (path,),
        "folders",
        nodata=(0.0,),
        gsd=spec.gsd or 0.0,
        license=spec.license,
        attribution=spec.attribution,
        redistribute=spec.redistribute,
        encoded=(encoded,),
        phash=perceptual_of(PHOTO, pixels),
        flags=(codec.remark(data, mime),),
    )
