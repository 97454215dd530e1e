"""Build one shard: every planned chip ends accepted or rejected with a reason, or the shard fails by its name.

A plain function of values, which an engine may map over the shards of a plan on as many machines as it likes: what
is sealed is not built again, names are the plan's, and nothing depends on the order of anything. Chips whose sources
are services are asked for several at a time; how many requests that makes is for the governor to say.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Literal, TypeVar, cast

from geodata.chips import Chip, ShardPlan
from geodata.choosing import considered
from geodata.compose import LABELS, Rejection, compose
from geodata.earlier import Earlier, chosen_for_retry, refusals, with_facts
from geodata.errors import Corrupt, DataError, Missing, Transient
from geodata.landcover import LandCover
from geodata.pictures import save_rejects
from geodata.sample import FileMeta, Sample
from geodata.sensors import LANDCOVER
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
from geodata.source import Address, ImagerySource, Served
from geodata.sources import cog, earth_engine_account
from geodata.spec import CorpusSpec

UNAVAILABLE = "unavailable"
MOST_UNAVAILABLE = 0.2
"""Share of a shard's chips that may end as dead letters; when more do, the service is down and nothing is sealed."""
MOST_THREADS = 16
SQUARE_M = 5120.0
"""What a block of 512 pixels of 10 m covers."""

Made = Sample | Rejection
T = TypeVar("T")


def build_shard(
    plan: ShardPlan,
    spec: CorpusSpec,
    root: Path,
    like: ShardRecord | None = None,
    earlier: Earlier | None = None,
    workshop: Workshop | None = None,
) -> ShardRecord:
    """Fetch, check, write and read back the shard `plan` of the corpus at `root`, record last; a sealed one stays.

    With `like`, the record of the same shard in another corpus, it is made again: from exactly the scenes named
    there, refusing exactly what was refused, and every pixel hash must come out equal. With `earlier`, what that
    version holds is taken over and only the rest is asked for. `workshop` stands in for the spec's own, to watch it at
    work. Raises DataError naming the shard: Denied when a
    service lets nobody in, Transient when it left too many chips unanswered, with `like` also Missing and Corrupt;
    ValueError when `root` holds the shards of another corpus.
    """
    done = sealed(plan, spec, root, earlier)
    if done is not None:
        return done
    workshop = workshop or Workshop.of(spec)
    before = earlier.record(plan.name) if earlier else None
    try:
        if like is not None:
            made: Sequence[Made] | None = _made_again(plan, workshop, like)
        elif earlier is not None and before is not None:
            made = _renewed(plan, workshop, earlier, before)
        else:
            made = _each(plan, workshop, workshop.compose)
    except DataError as error:
        raise type(error)(f"shard {plan.name} of {spec.address}: {error}") from error
    if made is None and earlier is not None and before is not None:
        return earlier.carried(before, root)
    samples = [one for one in made or () if isinstance(one, Sample)]
    rejects = [
        Reject(one.chip_id, one.reason, one.detail, dict(one.considered))
        for one in made or ()
        if isinstance(one, Rejection)
    ]
    if like is not None:
        rejects = list(like.rejects)
    save_rejects(
        root / "rejects" / f"{plan.name}.png",
        (
            (one.chip_id, one.reason, one.detail, one.preview)
            for one in made or ()
            if isinstance(one, Rejection)
        ),
    )
    record = write_shard(shard_path(root, plan.name), samples, file_meta(spec), rejects)
    verify_shard(shard_path(root, plan.name), record)
    save_record(root, record)
    return record


def sealed(
    plan: ShardPlan, spec: CorpusSpec, root: Path, earlier: Earlier | None = None
) -> ShardRecord | None:
    """The record of a shard that is there, whole, and holds exactly the planned chips; None when it must be built.

    Raises ValueError when it belongs to another corpus, unless it was carried over from `earlier`.
    """
    try:
        record = load_record(root, plan.name)
    except Corrupt:
        return None
    if record is None:
        return None
    path = shard_path(root, plan.name)
    try:
        file, meta = open_shard(path, record.footer_sha256)
        file.close()
    except (Corrupt, Missing):
        return None
    if meta.fingerprint != spec.fingerprint and not (earlier and earlier.record(plan.name) == record):
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


def reopen() -> None:
    """Forget what was opened: a process may outlive a run, and a listing, a file or an account may be another now."""
    _opened.cache_clear()
    cog.forget()
    earth_engine_account.disconnect()


@functools.lru_cache(maxsize=32)
def _opened(address: str) -> object:
    return Address.model_validate_json(address).open()


class Workshop:
    """The opened sources of a spec, and what is done with them to one chip."""

    def __init__(
        self, spec: CorpusSpec, sources: Mapping[str, ImagerySource], landcover: LandCover | None
    ) -> None:
        self.spec, self.sources, self.landcover = spec, sources, landcover

    @classmethod
    def of(cls, spec: CorpusSpec) -> Workshop:
        """The workshop of a spec; sources are opened once in this process."""
        sources = {part.sensor: opened_source(part.source) for part in spec.sensors}
        return cls(spec, sources, opened_landcover(spec.landcover) if spec.labels or spec.min_share else None)

    @property
    def threads(self) -> int:
        """Chips worth working on at a time: as many as the services behind the sources take requests, else one."""
        allowed = [one.limits.concurrency for one in self.sources.values() if isinstance(one, Served)]
        return min(MOST_THREADS, max(allowed, default=1))

    def compose(self, chip: Chip) -> Made:
        """The chip from whatever the sources have."""
        return compose(chip, self.spec, self.sources, self.landcover)

    def again(self, chip: Chip, known: Sample | None) -> Made:
        """The chip from whatever the sources have now, without asking for what `known` holds already."""
        return compose(chip, self.spec, self.sources, self.landcover, known=known)

    def pinned(self, chip: Chip, layers: Mapping[str, Mapping[str, object]]) -> Made:
        """The chip from exactly the scenes of recorded layers, by prefix. Raises Missing, Corrupt, Transient."""
        pinned = {
            prefix: [str(name) for name in _list(layer["item_ids"])] for prefix, layer in layers.items()
        }
        landcover = self.landcover if LANDCOVER.prefix in layers else None
        return compose(chip, self.spec, self.sources, landcover, pinned)

    def unchanged(self, chip: Chip, known: Mapping[str, str]) -> bool:
        """Whether a search finds for every sensor what it found when `known`, a digest by prefix, was written down."""
        for part in self.spec.sensors:
            before = known.get(part.picked.prefix)
            if before is None:
                continue
            grid = part.grid(self.spec.chip, chip.grid)
            if before != considered(self.sources[part.sensor].search(grid, part.period)):
                return False
        return bool(known)


def _each(plan: ShardPlan, workshop: Workshop, one: Callable[[Chip], Made]) -> list[Made]:
    """What becomes of each chip, in order. Raises Transient as soon as too many of a shard's are unavailable."""
    allowed = max(1, int(MOST_UNAVAILABLE * len(plan.chips)))
    order = nearest_first(plan.chips)
    made: dict[int, Made] = {}
    lost = 0
    with closing(_mapped(one, [plan.chips[place] for place in order], workshop.threads)) as results:
        for place, result in zip(order, results, strict=True):
            made[place] = result
            lost += isinstance(result, Rejection) and result.reason == UNAVAILABLE
            if lost > allowed:
                told = result.detail if isinstance(result, Rejection) else ""
                raise Transient(
                    f"{lost} of its first {len(made)} chips were not answered, so the service is down rather than "
                    f"those chips; the last: {told}"
                )
    return [made[place] for place in range(len(plan.chips))]


def nearest_first(chips: Sequence[Chip]) -> list[int]:
    """Places of the chips in an order in which those that share blocks of the scenes' files follow each other.

    A scene is 110 km wide and what is kept of it in memory is not: chips of one square of `SQUARE_M` are read together.
    """

    def place(number: int) -> tuple[float, ...]:
        grid = chips[number].grid
        (x, y), side = grid.origin, max(SQUARE_M, grid.width * grid.gsd)
        return grid.epsg, y // side, x // side, y, x

    return sorted(range(len(chips)), key=place)


def _mapped(one: Callable[[Chip], T], chips: Sequence[Chip], threads: int) -> Generator[T, None, None]:
    """In order; what was not begun when somebody stops listening, or an error is raised, is not begun any more."""
    if threads < 2 or len(chips) < 2:
        yield from map(one, chips)
        return
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(one, chips)


def _renewed(plan: ShardPlan, workshop: Workshop, earlier: Earlier, before: ShardRecord) -> list[Made] | None:
    """The chips of a shard of an earlier version, those of them that call for it made anew; None when none does."""
    old = refusals(before)
    told: Mapping[str, Mapping[str, Mapping[str, str]]] = {
        str(one["sample_id"]): one["layers"] for one in before.samples
    }
    if set(old) | set(told) != {chip.chip_id for chip in plan.chips}:
        raise Corrupt(f"its plan is not that of {earlier.root}; the land-cover map or the spec has changed")

    def stale(chip: Chip) -> bool:
        if chip.chip_id in old:
            refusal = old[chip.chip_id]
            return refusal.reason == UNAVAILABLE or not workshop.unchanged(chip, refusal.considered)
        layers = told[chip.chip_id].items()
        return not workshop.unchanged(chip, {p: one["considered"] for p, one in layers if one["considered"]})

    if earlier.where is not None:
        chosen = chosen_for_retry(plan, before, earlier.where)
    elif earlier.same:
        flags = _mapped(lambda chip: (chip.chip_id, stale(chip)), plan.chips, workshop.threads)
        chosen = {name for name, is_stale in flags if is_stale}
    else:
        chosen = {chip.chip_id for chip in plan.chips}
    if not chosen:
        return None
    known = earlier.samples(before)

    def renew(chip: Chip) -> Made:
        if chip.chip_id in chosen:
            return workshop.again(chip, earlier.held(known.get(chip.chip_id)))
        return known.get(chip.chip_id) or old[chip.chip_id]

    return _each(plan, workshop, renew)


def _made_again(plan: ShardPlan, workshop: Workshop, like: ShardRecord) -> list[Made]:
    """The samples of a recorded shard, each with the hashes it had."""
    recorded = {str(one["sample_id"]): one["layers"] for one in like.samples}
    planned = {chip.chip_id for chip in plan.chips}
    if planned != set(recorded) | {reject.chip_id for reject in like.rejects}:
        raise Corrupt(
            f"its plan has {len(planned)} chips which are not the {like.planned} of the record; "
            f"the land-cover map has changed, or the manifest is of another corpus"
        )

    def again(chip: Chip) -> Made:
        layers = recorded[chip.chip_id]
        return with_facts(_same(chip, workshop, layers), layers, like.hrefs)

    accepted = [chip for chip in plan.chips if chip.chip_id in recorded]
    return list(_mapped(again, accepted, workshop.threads))


def _same(chip: Chip, workshop: Workshop, layers: Mapping[str, Mapping[str, object]]) -> Sample:
    made = workshop.pinned(chip, layers)
    if isinstance(made, Rejection):  # pinned samples are never judged
        raise Corrupt(f"sample {chip.chip_id} was refused ({made.reason}: {made.detail})")
    for prefix, layer in layers.items():
        found = made.layers[prefix].pixel_hash().hex()
        if found != layer["pixel_hash"]:
            raise Corrupt(
                f"sample {chip.chip_id}: {prefix} pixels hash to {found[:12]}, recorded is {str(layer['pixel_hash'])[:12]}; "
                f"a source file has changed, or (for resampled pixels) the version of GDAL"
            )
    return made


Drift = Literal["equal", "changed", "gone", "unanswered"]
"""What became of a recorded layer at its source: the same pixels, others, a scene less, or no word about it."""


def drift(chip: Chip, spec: CorpusSpec, layers: Mapping[str, Mapping[str, object]]) -> dict[str, Drift]:
    """What asking the sources again for the scenes of a recorded sample gives, layer by layer. Raises Denied."""
    workshop = Workshop.of(spec)
    found: dict[str, Drift] = {}
    for prefix, layer in layers.items():
        try:
            _same(chip, workshop, {prefix: layer})
        except Missing:
            found[prefix] = "gone"
        except Corrupt:
            found[prefix] = "changed"
        except Transient:
            found[prefix] = "unanswered"
        else:
            found[prefix] = "equal"
    return found


def _list(value: object) -> Sequence[object]:
    assert isinstance(value, list | tuple)
    return value
