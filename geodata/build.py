"""Build one shard: every planned chip ends accepted or rejected with a reason, or the shard fails by its name.

A plain function of values, which an engine may map over the shards of a plan on as many machines as it likes: what
is sealed is not built again, names are the plan's, and nothing depends on the order of anything.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from geodata.chips import Chip, ShardPlan
from geodata.compose import LABELS, Rejection, compose
from geodata.errors import Corrupt, DataError, Missing
from geodata.landcover import LandCover
from geodata.sample import FileMeta, Sample
from geodata.sensors import LANDCOVER
from geodata.shards import Reject, ShardRecord, load_record, open_shard, save_record, shard_path, write_shard
from geodata.source import Address, ImagerySource
from geodata.spec import CorpusSpec


def build_shard(
    plan: ShardPlan, spec: CorpusSpec, root: Path, like: ShardRecord | None = None
) -> ShardRecord:
    """Fetch, check and write the shard `plan` of the corpus at `root`, record last; a sealed one is left as it is.

    With `like`, the record of the same shard in another corpus, it is made again: from exactly the scenes named
    there, refusing exactly what was refused, and every pixel hash must come out equal. Raises DataError naming
    the shard: Transient when a source did not answer, with `like` also Missing and Corrupt; ValueError when `root`
    holds the shards of another corpus.
    """
    done = sealed(plan, spec, root)
    if done is not None:
        return done
    sources = {part.sensor: opened_source(part.source) for part in spec.sensors}
    landcover = opened_landcover(spec.landcover) if spec.labels else None
    try:
        if like is None:
            made: Sequence[Sample | Rejection] = [
                compose(chip, spec, sources, landcover) for chip in plan.chips
            ]
        else:
            made = _made_again(plan, spec, sources, landcover, like)
    except DataError as error:
        raise type(error)(f"shard {plan.name} of {spec.address}: {error}") from error
    samples = [one for one in made if isinstance(one, Sample)]
    rejects = [Reject(one.chip_id, one.reason, one.detail) for one in made if isinstance(one, Rejection)]
    if like is not None:
        rejects = list(like.rejects)
    record = write_shard(shard_path(root, plan.name), samples, file_meta(spec), rejects)
    save_record(root, record)
    return record


def sealed(plan: ShardPlan, spec: CorpusSpec, root: Path) -> ShardRecord | None:
    """The record of a shard that is there, whole, and holds exactly the planned chips; None when it must be built.

    Raises ValueError when it belongs to another corpus.
    """
    try:
        record = load_record(root, plan.name)
    except Corrupt:
        return None
    if record is None:
        return None
    path = shard_path(root, plan.name)
    try:
        file, meta = open_shard(path)
        file.close()
    except (Corrupt, Missing):
        return None
    if meta.fingerprint != spec.fingerprint:
        raise ValueError(
            f"{path} belongs to {meta.corpus} with fingerprint {meta.fingerprint[:12]}, not {spec.address} with "
            f"{spec.fingerprint[:12]}; raise the version, or choose another folder"
        )
    found = {reject.chip_id for reject in record.rejects} | {str(one["sample_id"]) for one in record.samples}
    same = found == {chip.chip_id for chip in plan.chips} and path.stat().st_size == record.bytes
    return record if same else None


def file_meta(spec: CorpusSpec) -> FileMeta:
    """What the shards of a corpus say of themselves."""
    sensors = tuple(part.picked for part in spec.sensors)
    return FileMeta(
        sensors=(*sensors, LANDCOVER) if spec.labels else sensors,
        labels=LABELS if spec.labels else (),
        corpus=spec.address,
        fingerprint=spec.fingerprint,
        created_by=created_by(),
    )


def created_by() -> str:
    """This program and its version, as files and manifests record it."""
    try:
        return f"swath {importlib.metadata.version('swath')}"
    except importlib.metadata.PackageNotFoundError:
        return "swath (not installed)"


def opened_source(address: Address) -> ImagerySource:
    """The source at an address, opened once in this process."""
    return cast(ImagerySource, _opened(address.model_dump_json()))


def opened_landcover(address: Address) -> LandCover:
    """The land-cover map at an address, opened once in this process."""
    return cast(LandCover, _opened(address.model_dump_json()))


@functools.lru_cache(maxsize=32)
def _opened(address: str) -> object:
    return Address.model_validate_json(address).open()


def _made_again(
    plan: ShardPlan,
    spec: CorpusSpec,
    sources: Mapping[str, ImagerySource],
    landcover: LandCover | None,
    like: ShardRecord,
) -> Sequence[Sample | Rejection]:
    """The samples of a recorded shard, each with the hashes it had."""
    recorded = {str(one["sample_id"]): one["layers"] for one in like.samples}
    planned = {chip.chip_id: chip for chip in plan.chips}
    if set(planned) != set(recorded) | {reject.chip_id for reject in like.rejects}:
        raise Corrupt(
            f"its plan has {len(planned)} chips which are not the {like.planned} of the record; "
            f"the land-cover map has changed, or the manifest is of another corpus"
        )
    return [_same(planned[name], spec, sources, landcover, layers) for name, layers in recorded.items()]


def _same(
    chip: Chip,
    spec: CorpusSpec,
    sources: Mapping[str, ImagerySource],
    landcover: LandCover | None,
    layers: Mapping[str, Mapping[str, object]],
) -> Sample | Rejection:
    pinned = {prefix: [str(name) for name in _list(layer["item_ids"])] for prefix, layer in layers.items()}
    made = compose(chip, spec, sources, landcover, pinned)
    if isinstance(made, Rejection):  # pinned samples are never judged
        raise Corrupt(f"sample {chip.chip_id} was refused ({made.reason}: {made.detail})")
    for prefix, layer in layers.items():
        found = made.layers[prefix].sha256().hex()
        if found != layer["sha256"]:
            raise Corrupt(
                f"sample {chip.chip_id}: {prefix} pixels hash to {found[:12]}, recorded is {str(layer['sha256'])[:12]}; "
                f"a source file has changed, or (for resampled pixels) the version of GDAL"
            )
    return made


def _list(value: object) -> Sequence[object]:
    assert isinstance(value, list | tuple)
    return value
