"""Invented tiles of three sensors, and the smallest SkySense that reads them: what its tests share."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from geodata.sensors import OPTICAL, SENTINEL1, SENTINEL2
from training.augment import PADDING
from training.encoders import spatiotemporal
from training.feed import Samples
from training.methods import skysense
from training.recipe import replace

SIDE = 64
DAYS = {"hr": 18000, "s2": 18262, "s1": 18300}


def samples(
    count: int, *, ramps: bool = False, without: Mapping[str, Sequence[int]] | None = None, seed: int = 0
) -> Samples:
    """Tiles of 64 cells, high resolution twice as fine; `ramps` show x + y in cells, whatever the sensor."""
    generator = torch.Generator().manual_seed(seed)
    layers, dates = {}, {}
    for sensor, shown, side in ((OPTICAL, 1, 2 * SIDE), (SENTINEL2, 8, SIDE), (SENTINEL1, 5, SIDE)):
        shape = (count, shown, len(sensor.bands), side, side)
        if ramps:
            place = (torch.arange(side) + 0.5) * SIDE / side
            pixels = (place[:, None] + place + 20).round().expand(shape)
        else:
            level = torch.randint(40, 200, (*shape[:3], 8, 8), generator=generator).float()
            pixels = torch.nn.functional.interpolate(level.flatten(0, 1), (side, side), mode="bilinear")
            pixels = pixels.view(shape).round()
        scale = 1 if sensor is OPTICAL else 10
        layers[sensor.prefix] = (scale * pixels).to(getattr(torch, sensor.dtype))
        dates[sensor.prefix] = (
            (DAYS[sensor.prefix] + 20 * torch.arange(shown)).expand(count, -1).int().clone()
        )
    for layer, missing in (without or {}).items():
        for number in missing:
            dates[layer][number] = PADDING
    known = (OPTICAL, SENTINEL2, SENTINEL1)
    return Samples(
        ids=[f"tile-{seed}-{number}" for number in range(count)],
        layers=layers,
        dates=dates,
        labels={},
        lonlat=torch.tensor([[10.0, 50.0], [-70.0, -20.0], [100.0, 30.0]])[torch.arange(count) % 3],
        region=torch.zeros(count, dtype=torch.int64),
        bands={one.prefix: one.band_names for one in known},
        nodata={one.prefix: one.nodata for one in known},
    )


def tiny(
    *, s2_dates: int = 2, s1_dates: int = 2, parts: Sequence[str] = (), **changes: object
) -> skysense.Spec:
    """Views of 4 cells, every cell and date in the loss, heads of 24 prototypes, narrow and shallow encoders."""
    whole = spatiotemporal.tiny()
    known = {
        name: replace(
            part, inputs=replace(part.inputs, mean=(1200.0,) * bands, std=(400.0,) * bands), depth=2, width=48
        )
        for name, part, bands in (("s2", whole.s2, 10), ("s1", whole.s1, 2))
    }
    encoder = replace(
        whole,
        **known,
        hr=replace(whole.hr, image=128, width=8, depths=(1, 1, 2, 1), heads=(1, 2, 4, 4)),
        channels=64,
        fusion=replace(whole.fusion, width=32, depth=2),
        places=replace(whole.places, side=2, count=4),
    )
    base = skysense.tiny().method
    found = replace(
        base,
        encoder=encoder,
        views=replace(
            base.views,
            places=replace(base.views.places, count=1),
            cells=4,
            s2_dates=s2_dates,
            s1_dates=s1_dates,
        ),
        contrast=replace(
            base.contrast, cells=64, dates=8, head=skysense.LevelHead(prototypes=24, hidden=16, bottleneck=8)
        ),
        still=0.0,
    )
    return replace(found, **({"encoder": encoder.only(parts)} if parts else {}), **changes)


def rows(values: Tensor, rank: int, world: int, rounds: int = 2) -> Tensor:
    """A rank's places of values (rounds * B, ...), round by round."""
    return values.unflatten(0, (rounds, -1)).chunk(world, dim=1)[rank].flatten(0, 1)
