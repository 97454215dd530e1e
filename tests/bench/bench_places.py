"""What drawing a corpus costs: time, CPU time and peak memory of a plan, its file, its shards and one more round.

    .venv/bin/python tests/bench/bench_places.py --landcover PATH/cover.tif
    .venv/bin/python tests/bench/bench_places.py --landcover PATH/cover.tif --name skysense_sequences quotas.count=2150000

Prints the quotas beside what the map fills. Peak memory is the process's own, of everything up to that line.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from geodata.chips import Plan
from geodata.corpus import load_spec, with_landcover
from geodata.sampling import more, plan


@contextmanager
def timed(what: str) -> Iterator[None]:
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{what:24} {wall:8.1f} s  {cpu:8.1f} CPU s  peak {peak:5.2f} GiB", flush=True)


def table(found: Plan) -> None:
    strata = list(dict.fromkeys(name for row in found.quotas.values() for name in row))
    counts = found.counts("cell", "stratum")
    print(f"{'':16}" + "".join(f"{name:>22}" for name in (*strata, "all")))
    columns = {name: [0, 0] for name in (*strata, "all")}
    for region, wanted in found.quotas.items():
        cells = {name: (wanted.get(name, 0), counts.get(f"{region} {name}", 0)) for name in strata}
        cells["all"] = tuple(map(sum, zip(*cells.values(), strict=True)))
        for name, pair in cells.items():
            columns[name] = [a + b for a, b in zip(columns[name], pair, strict=True)]
        print(f"{region:16}" + "".join(f"{a:>11,}{b:>11,}" for a, b in cells.values()))
    print(f"{'all':16}" + "".join(f"{a:>11,}{b:>11,}" for a, b in columns.values()))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--landcover", type=Path, required=True)
    arguments.add_argument("--table")
    arguments.add_argument("--name", default="rsrsd_5m")
    arguments.add_argument("--workers", type=int, default=1)
    arguments.add_argument("overrides", nargs="*")
    given = arguments.parse_args()
    spec = with_landcover(load_spec(given.name, given.overrides), given.landcover, given.table)
    cover = spec.landcover.open()
    with timed(f"draw, {given.workers} workers"):
        found = plan(spec, cover, workers=given.workers)
    with tempfile.TemporaryDirectory() as folder:
        with timed("write"):
            found.write(Path(folder))
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
        with timed(f"read {size / 2**20:.0f} MiB"):
            again = Plan.read(Path(folder))
    assert again == found
    with timed("shards"):
        shards = found.shards(spec.shard_rows)
    rejected = [chip.chip_id for number in range(0, len(shards), 100) for chip in shards[number].chips]
    with timed(f"replace {len(rejected):,} chips"):
        grown = more(found, spec, cover, rejected)
    print(
        f"{found.points:,} points, {len(found):,} chips, {len(shards):,} shards; {len(grown) - len(found):,} replaced"
    )
    table(found)
    for short in found.shortfalls:
        print(
            f"short: {short.stratum} in {short.region}: {short.found:,} of {short.wanted:,} after {short.candidates:,}"
        )
    if spec.chip.kind == "tiles":
        print("zooms:", ", ".join(f"{zoom} {count:,}" for zoom, count in found.counts("zoom").items()))


if __name__ == "__main__":
    main()
