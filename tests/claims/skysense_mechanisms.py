"""Do SkySense's mechanisms work? Six of its claims on invented ground, each with the control that must hold.

Invented ground shows that a mechanism does in this code what it is for, and proves nothing about the Earth. Three tests
need no encoder (points of land seen through a year, and features of regions); three pretrain small encoders on the synthetic
Earth, all for the same steps on the same places in the same order, and probe them there. Everything is kept under --out, a
file for each arm and seed, and goes on after an interruption. A claim is supported if the mean of the paired differences is
positive and no run lies below minus half of it.

    swath curate smoke quotas.count=240
    python tests/claims/skysense_mechanisms.py runs/corpora/smoke@1 --out runs/claims/skysense [--seeds 3] [--first 2]
        [--steps 150] [--claims cloud prototypes series sensors alignment granularity]
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import ground
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training import evaluate, probe
from training.encoders.fusion import Dates, Fusion, FusionSpec
from training.feed import Samples, once
from training.methods import skysense
from training.multiview import sights
from training.prototypes import Prototypes
from training.prototypes import Spec as PrototypesSpec
from training.recipe import Recipe, Stream, replace
from training.schedules import Teaching

CLASSES, S2_DATES, S1_DATES, YEAR = 8, 8, 6, 365
CLOUDS = (0.0, 0.2, 0.4, 0.6, 0.8, 0.95)
POINTS, BATCH = 4000, 128
RATE = 2e-3
Result = dict[str, float]

# ---- points of land through a year


class World:
    """Eight crops that grow at different times of the year, seen in ten bands and in two channels of radar."""

    def __init__(self, seed: int) -> None:
        self.draw = torch.Generator().manual_seed(1000 + seed)
        self.soil, self.green = torch.rand(2, 10, generator=self.draw)

    def points(self, count: int, cloud: Tensor | float) -> dict[str, Tensor]:
        """`count` points, of whose optical dates a share `cloud`, one or each its own, is bright noise."""
        classes = torch.randint(CLASSES, (count,), generator=self.draw)
        days = torch.randint(YEAR, (count, S2_DATES + S1_DATES), generator=self.draw)
        peak = classes[:, None] * YEAR / CLASSES + 8 * torch.randn(count, 1, generator=self.draw)
        apart = (days - peak + YEAR / 2) % YEAR - YEAR / 2
        grown = torch.exp(-((apart / 40) ** 2) / 2)[..., None]
        s2 = self.soil + (self.green - self.soil) * grown[:, :S2_DATES]
        s2 = s2 + 0.15 * torch.randn(s2.shape, generator=self.draw)
        share = torch.as_tensor(cloud).expand(count)[:, None]
        covered = torch.rand(count, S2_DATES, generator=self.draw) < share
        bright = 1.5 + 0.3 * torch.randn(s2.shape, generator=self.draw)
        s1 = grown[:, S2_DATES:] + 0.6 * torch.randn(count, S1_DATES, 2, generator=self.draw)
        return {"class": classes, "days": days, "s2": torch.where(covered[..., None], bright, s2), "s1": s1}


class Reader(nn.Module):
    """The fusion transformer over points: a linear map for each sensor in place of its encoder."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.maps = nn.ModuleDict({"s2": nn.Linear(10, width), "s1": nn.Linear(2, width)})
        self.dates = Dates(width)
        self.fusion = Fusion(FusionSpec(width=width, depth=2, heads=4), width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, points: Mapping[str, Tensor], sensors: Sequence[str]) -> Tensor:
        """Logits (B, K)."""
        when = dict(zip(("s2", "s1"), points["days"].split([S2_DATES, S1_DATES], 1), strict=True))
        if points["s2"].shape[1] != S2_DATES:
            when["s2"] = when["s2"][:, : points["s2"].shape[1]]
        tokens = torch.cat([self.maps[name](points[name]) + self.dates(when[name]) for name in sensors], 1)
        fused = self.fusion(tokens[:, None], torch.ones(tokens.shape[:2], dtype=torch.bool))
        return self.head(fused[:, 0])


def learned(
    seed: int,
    sensors: Sequence[str],
    steps: int,
    change: Callable[[dict[str, Tensor], torch.Generator], dict[str, Tensor]],
    clouds: Sequence[float],
) -> Result:
    """Accuracies at each share of cloud of a reader trained on random ones, of points changed in the same way."""
    world, draw = World(seed), torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    reader = Reader()
    optimizer = torch.optim.AdamW(reader.parameters(), RATE)
    # without a warm-up some readers never leave chance
    warming = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=100)
    for _ in range(steps):
        share = torch.rand(BATCH, generator=draw) if len(clouds) > 1 else 0.0
        points = change(world.points(BATCH, share), draw)
        optimizer.zero_grad()
        F.cross_entropy(reader(points, sensors), points["class"]).backward()
        optimizer.step()
        warming.step()
    found = {}
    test = World(seed)
    test.draw.manual_seed(77)
    with torch.no_grad():
        for cloud in clouds:
            points = change(test.points(POINTS, cloud), draw)
            found[f"{cloud:g}"] = float((reader(points, sensors).argmax(1) == points["class"]).float().mean())
    return found


def as_it_is(points: dict[str, Tensor], draw: torch.Generator) -> dict[str, Tensor]:
    return points


def radar_of_others(points: dict[str, Tensor], draw: torch.Generator) -> dict[str, Tensor]:
    """Radar, and its days, of another point."""
    other = torch.randperm(len(points["s1"]), generator=draw)
    days = torch.cat([points["days"][:, :S2_DATES], points["days"][other, S2_DATES:]], 1)
    return points | {"s1": points["s1"][other], "days": days}


def one_date(points: dict[str, Tensor], draw: torch.Generator) -> dict[str, Tensor]:
    return points | {"s2": points["s2"][:, :1]}


def other_days(points: dict[str, Tensor], draw: torch.Generator) -> dict[str, Tensor]:
    return points | {"days": torch.randint(YEAR, points["days"].shape, generator=draw)}


def other_order(points: dict[str, Tensor], draw: torch.Generator) -> dict[str, Tensor]:
    order = torch.randperm(S2_DATES, generator=draw)
    days = torch.cat([points["days"][:, :S2_DATES][:, order], points["days"][:, S2_DATES:]], 1)
    return points | {"s2": points["s2"][:, order], "days": days}


POINT_ARMS: dict[
    str, dict[str, tuple[tuple[str, ...], Callable[..., dict[str, Tensor]], tuple[float, ...]]]
] = {
    "cloud": {
        "s2": (("s2",), as_it_is, CLOUDS),
        "s2 and s1": (("s2", "s1"), as_it_is, CLOUDS),
        "s2 and others' s1": (("s2", "s1"), radar_of_others, CLOUDS),
    },
    "series": {
        "one date": (("s2",), one_date, (0.0,)),
        "series": (("s2",), as_it_is, (0.0,)),
        "series in another order": (("s2",), other_order, (0.0,)),
        "series with random dates": (("s2",), other_days, (0.0,)),
    },
}

# ---- features of regions


def regional(seed: int, arm: str, updates: int) -> Result:
    """A linear probe of cells, of which each region has one of each pair of look-alikes, with what they read beside them."""
    width, regions, cells = 32, 64, 32
    draw = torch.Generator().manual_seed(seed)
    pairs = 1.5 * torch.randn(4, width, generator=draw)
    unlike = 0.9 * F.normalize(torch.randn(4, width, generator=draw), dim=-1)
    held = torch.randint(2, (regions, 4), generator=draw)

    def some(samples: int) -> tuple[Tensor, Tensor, Tensor]:
        region = torch.randint(regions, (samples,), generator=draw)
        pair = torch.randint(4, (samples, cells), generator=draw)
        which = held[region].gather(1, pair)
        seen = pairs[pair] + (which[..., None] - 0.5) * unlike[pair]
        return seen + torch.randn(seen.shape, generator=draw), region, 2 * pair + which

    order = torch.randperm(regions, generator=draw)
    named = {
        "of the region": lambda region: region,
        "of any region": lambda region: torch.randint(regions, region.shape, generator=draw),
        "of the region by another name": lambda region: order[region],
    }
    update = "sum" if arm.endswith("(sum)") else "mean"
    spec = PrototypesSpec(side=8, count=8, update=update)
    torch.manual_seed(seed)
    known = Prototypes(spec, width)
    found = {}
    for _ in range(0 if arm == "none" else updates):
        seen, region, _ = some(16)
        known.absorb(seen, named[arm.removesuffix(" (sum)")](region))
        known.settle()
    parts = []
    for count in (128, 64):
        seen, region, classes = some(count)
        if arm != "none":
            read = known(seen, named[arm.removesuffix(" (sum)")](region))
            seen = torch.cat([seen, read], -1)
        parts.append((seen.flatten(0, 1), classes.flatten()))
    found["accuracy"] = probe.linear(parts[0], parts[1])
    return found


REGION_ARMS = (
    "none",
    "of the region",
    "of the region (sum)",
    "of any region",
    "of the region by another name",
)

# ---- encoders pretrained on the synthetic Earth


def recipe(arm: str, root: Path, steps: int, seed: int) -> Recipe:
    """The smallest SkySense on views of 4 cells, and what an arm leaves out."""
    base = skysense.tiny()
    method = base.method
    parts = {"hr": ("hr", "fusion"), "hr, s2": ("hr", "s2", "fusion")}.get(
        arm, ("hr", "s2", "s1", "fusion", "places")
    )
    contrast = replace(
        method.contrast,
        levels=("images",) if arm == "images alone" else method.contrast.levels,
        head=skysense.LevelHead(prototypes=256, hidden=128, bottleneck=32),
    )
    views = replace(
        method.views, places=replace(method.views.places, count=0), cells=4, local=128, s2_dates=3, s1_dates=2
    )
    alignment = {
        "hr": None,
        "not aligned": None,
        "aligned without weight": skysense.Alignment(weight=0.0),
    }.get(arm, method.alignment)
    spec = replace(
        method,
        encoder=replace(method.encoder, hr=replace(method.encoder.hr, image=128)).only(parts),
        views=views,
        contrast=contrast,
        alignment=alignment,
        teaching=Teaching(momentum=0.97, warming=0.3),  # for a run of a few hundred steps
        still=0.0,
    )
    return replace(
        base,
        name="skysense.tiny",  # whose method this is
        method=spec,
        streams={"scenes": Stream(corpus=str(root), layers=("hr", "s2", "s1"))},
        batch=8,
        steps=steps,
        optim=replace(base.optim, lr_per_256=RATE, batch_power=0.0),
        seed=seed,
        log_every=50,
        checkpoint_every=steps,
        keep=1,
    )


@torch.no_grad()
def looked_at(method: skysense.SkySense, root: Path, split: str) -> dict[str, Tensor]:
    """Cells of the central views of all places of a split, by source, their classes, and sensors' rows by projections."""
    found: dict[str, list[Tensor]] = {}
    reads = method.spec.encoder.reads
    stream = Stream(corpus=str(root), layers=("hr", "s2", "s1", "lc"), split=split)
    for batch in once(stream, 32):
        region = None if method.encoder.places is None else method.encoder.places.region(batch.lonlat)
        seen = sights(batch, reads, method.spec.views, region, fixed=True)
        first = slice(0, len(batch))  # the larger of the two views
        cells = method.teacher.module(seen.large)
        for name, values in cells.items():
            found.setdefault(name, []).append(values[first].mean(1))  # (B, N, E)
        if method.spec.alignment is not None:
            student = method.student(seen.large)
            for name in reads:
                rows = method.projections[name](student[name].mean((1, 2)))
                found.setdefault(f"row {name}", []).append(F.normalize(rows[first], dim=-1))
        found.setdefault("class", []).append(cover(batch, method.spec.views.cells))
    return {name: torch.cat(values) for name, values in found.items()}


def cover(batch: Samples, cells: int) -> Tensor:
    """The land cover (B, N) that most of a cell of the central view of 32 pixels has."""
    codes = batch.layers["lc"][:, 0, 0].long()
    inner = codes[:, 16:48, 16:48]
    blocks = inner.unflatten(2, (cells, -1)).unflatten(1, (cells, -1)).permute(0, 1, 3, 2, 4).flatten(3)
    return blocks.flatten(1, 2).mode(-1).values


def pretrained(arm: str, seed: int, root: Path, out: Path, steps: int) -> Result:
    """Probes of one arm's teacher and recalls between its sensors, on places it did not see."""
    folder = out / f"{arm.replace(', ', '-').replace(' ', '-')}-seed{seed}"
    _, seconds = ground.trained(recipe(arm, root, steps, seed), folder)
    _, method = evaluate.restore(folder)
    assert isinstance(method, skysense.SkySense)
    method.eval()
    train, test = (looked_at(method, root, split) for split in ("train", "test"))
    found: Result = {"seconds": seconds}
    for source in ("hr", "fused"):
        if source in train:
            known, asked = ((part[source].flatten(0, 1), part["class"].flatten()) for part in (train, test))
            found[f"{source} cells"] = probe.linear(known, asked)
            known, asked = ((part[source].mean(1), part["class"].mode(1).values) for part in (train, test))
            found[f"{source} images"] = probe.linear(known, asked)
    for one, other in (("hr", "s2"), ("s2", "s1"), ("hr", "s1")):
        if f"row {one}" in test and f"row {other}" in test:
            nearest = (test[f"row {one}"] @ test[f"row {other}"].T).argmax(1)
            found[f"recall {one} {other}"] = float((nearest == torch.arange(len(nearest))).float().mean())
    return found


# ---- what is claimed


def supported(better: Sequence[float], worse: Sequence[float]) -> str:
    """The mean, least and greatest paired difference, and whether the claim's direction is supported."""
    apart = [one - other for one, other in zip(better, worse, strict=True)]
    mean = statistics.mean(apart)
    verdict = "supported" if mean > 0 and min(apart) >= -mean / 2 else "not supported"
    return f"{mean:+.3f} ({min(apart):+.3f} to {max(apart):+.3f}): {verdict}"


def held(better: Sequence[float], worse: Sequence[float], gain: float) -> str:
    """Whether what must not help does not: its mean gain is at most a quarter of the claim's."""
    apart = [one - other for one, other in zip(better, worse, strict=True)]
    mean = statistics.mean(apart)
    verdict = "holds" if mean <= max(0.0, gain) / 4 else "fails"
    return f"{mean:+.3f} ({min(apart):+.3f} to {max(apart):+.3f}): {verdict}"


Scores = Mapping[str, Sequence[Result]]


def of(scores: Scores, arm: str, name: str) -> list[float]:
    return [one[name] for one in scores[arm]]


def compared(title: str, scores: Scores, better: str, worse: str, name: str) -> str:
    return f"- {title}: {supported(of(scores, better, name), of(scores, worse, name))}"


def gain(scores: Scores, better: str, worse: str, name: str) -> float:
    return statistics.mean(of(scores, better, name)) - statistics.mean(of(scores, worse, name))


def said(claim: str, scores: Scores) -> list[str]:
    """What a claim's arms say of it and of its controls."""
    if claim == "cloud":
        gains = [gain(scores, "s2 and s1", "s2", f"{cloud:g}") for cloud in CLOUDS]
        lines = []
        for cloud, real in zip(CLOUDS, gains, strict=True):
            name = f"{cloud:g}"
            lines.append(compared(f"gain of S1 at cloud {name}", scores, "s2 and s1", "s2", name))
            verdict = held(of(scores, "s2 and others' s1", name), of(scores, "s2", name), real)
            lines.append(f"- control, S1 of others gives none at cloud {name}: {verdict}")
        rising = all(later >= earlier - 0.005 for earlier, later in itertools.pairwise(gains))
        return [*lines, f"- control, near 0 without cloud ({gains[0]:+.3f}), never less with more: {rising}"]
    if claim == "series":
        moved = gain(scores, "series in another order", "series", "0")
        return [
            compared("a series over one date", scores, "series", "one date", "0"),
            compared(
                "control, random dates lose to true ones", scores, "series", "series with random dates", "0"
            ),
            f"- control, another order changes nothing: {moved:+.3f}",
        ]
    if claim == "prototypes":
        real = gain(scores, "of the region", "none", "accuracy")
        chance = held(of(scores, "of any region", "accuracy"), of(scores, "none", "accuracy"), real)
        arms = [arm for arm in REGION_ARMS if arm.startswith("of the region")]
        return [
            *(compared(f"prototypes {arm} over none", scores, arm, "none", "accuracy") for arm in arms),
            f"- control, prototypes of any region give none: {chance}",
        ]
    if claim == "sensors":
        return [
            compared("hr, s2, s1 over hr, cells of hr", scores, "whole", "hr", "hr cells"),
            compared("hr, s2 over hr, cells of hr", scores, "hr, s2", "hr", "hr cells"),
            compared("the same not aligned over hr", scores, "not aligned", "hr", "hr cells"),
        ]
    if claim == "alignment":
        names = [name for name in scores["whole"][0] if name.startswith("recall")]
        return [
            *(compared(name, scores, "whole", "aligned without weight", name) for name in names),
            compared("cells of all fused", scores, "whole", "not aligned", "fused cells"),
        ]
    noise = gain(scores, "whole", "images alone", "fused images")
    return [
        compared(
            "pixels and objects too, cells of all fused", scores, "whole", "images alone", "fused cells"
        ),
        compared("pixels and objects too, cells of hr", scores, "whole", "images alone", "hr cells"),
        f"- control, images of all fused are not worse: {noise:+.3f}",
    ]


ARMS: dict[str, tuple[str, ...]] = {
    "cloud": tuple(POINT_ARMS["cloud"]),
    "prototypes": REGION_ARMS,
    "series": tuple(POINT_ARMS["series"]),
    "sensors": ("hr", "hr, s2", "whole", "not aligned"),
    "alignment": ("whole", "aligned without weight", "not aligned"),
    "granularity": ("whole", "images alone"),
}


def run(claim: str, arm: str, seed: int, arguments: argparse.Namespace) -> Result:
    """The scores of one arm and seed, computed once; arms that claims share are the same."""
    group = claim if claim in POINT_ARMS or claim == "prototypes" else "pretrained"
    kept = arguments.out / group / f"{arm.replace(' ', '-')}-seed{seed}.json"
    if kept.exists():
        return dict(json.loads(kept.read_text()))
    kept.parent.mkdir(parents=True, exist_ok=True)
    began = time.process_time()
    if group == "pretrained":
        found = pretrained(arm, seed, arguments.corpus, arguments.out / "runs", arguments.steps)
    elif group == "prototypes":
        found = regional(seed, arm, 2 * arguments.updates)
    else:
        sensors, change, clouds = POINT_ARMS[group][arm]
        found = learned(seed, sensors, arguments.updates, change, clouds)
    found["cpu_s"] = time.process_time() - began
    kept.write_text(json.dumps(found))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/claims/skysense"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--first", type=int, default=0, help="the first seed; 0 and 1 were looked at while this was written"
    )
    parser.add_argument("--steps", type=int, default=150, help="of pretraining")
    parser.add_argument(
        "--updates", type=int, default=700, help="of a reader of points; prototypes get twice as many"
    )
    parser.add_argument("--claims", nargs="+", choices=tuple(ARMS), default=tuple(ARMS))
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    report: list[str] = []
    for claim in arguments.claims:
        scores: dict[str, list[Result]] = {arm: [] for arm in ARMS[claim]}
        for seed in range(arguments.first, arguments.first + arguments.seeds):
            for arm in ARMS[claim]:
                scores[arm].append(run(claim, arm, seed, arguments))
                print(f"{claim}, seed {seed}, {arm}: {scores[arm][-1]}", flush=True)
        report += [f"{claim}, {arguments.seeds} seeds from {arguments.first}", *said(claim, scores), ""]
    print("\n".join(report))
    (arguments.out / "report.md").write_text("\n".join(report))


if __name__ == "__main__":
    main()
