"""Step time, operations and memory of SkySense at its published sizes, on a GPU or on a CPU.

Invented places of 640 m with one aerial image of 2048 pixels, 20 dates of Sentinel-2 and 10 of Sentinel-1, as the paper's
samples are. A step is all of it: views cut on the device, student and teacher, every loss, backward, clipping, AdamW,
prototypes, centres and the teacher's own step, in the recipe's precision and with its recomputation. Time on a CPU is
processor time beside the clock's, which other work on the machine disturbs.

Needs torch, timm, numpy and pydantic; no Ray, Prefect or rasterio, and no data.

    python tests/gpu/bench_skysense.py [--sizes small,base,huge] [--batch 2] [--steps 10] [--out FILE.json]
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from geodata.sensors import OPTICAL, SENTINEL1, SENTINEL2  # noqa: E402
from training import meter, optim, parallel  # noqa: E402
from training.encoders import Inputs  # noqa: E402
from training.feed import Samples  # noqa: E402
from training.methods import Method, Progress, build, skysense  # noqa: E402
from training.recipe import Recipe, replace  # noqa: E402

SIDE, FINE = 64, 32
SEEN = (
    (OPTICAL, 1, SIDE * FINE, 120, 40),
    (SENTINEL2, 20, SIDE, 1500, 600),
    (SENTINEL1, 10, SIDE, -1500, 400),
)
"""Sensor, dates, pixels a side, mean and deviation of what is stored."""
SIZES = {
    "tiny": skysense.tiny,
    "small": skysense.small,
    "base": skysense.base,
    "huge": skysense.huge,
}


def places(count: int) -> Samples:
    """Smooth invented places with every sensor and every date."""
    generator = torch.Generator().manual_seed(0)
    layers, dates = {}, {}
    for sensor, shown, side, mean, deviation in SEEN:
        coarse = torch.randn(count * shown, len(sensor.bands), 16, 16, generator=generator)
        fine = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear") * deviation + mean
        least = 1 if sensor is not SENTINEL1 else -4000
        stored = fine.clamp(least, 255 if sensor is OPTICAL else 10000).to(getattr(torch, sensor.dtype))
        layers[sensor.prefix] = stored.unflatten(0, (count, shown))
        dates[sensor.prefix] = (18000 + 9 * torch.arange(shown)).expand(count, -1).int().clone()
    known = [sensor for sensor, *_ in SEEN]
    return Samples(
        ids=[f"place-{number}" for number in range(count)],
        layers=layers,
        dates=dates,
        labels={},
        lonlat=torch.rand(count, 2, generator=generator) * 100 - 50,
        region=torch.zeros(count, dtype=torch.int64),
        bands={one.prefix: one.band_names for one in known},
        nodata={one.prefix: one.nodata for one in known},
    )


def method(recipe: Recipe, device: str) -> Method:
    """The method of a recipe on a device, with statistics of what was invented and its recomputation."""
    spec = recipe.method
    known = {sensor.prefix: (mean, deviation) for sensor, *_, mean, deviation in SEEN}

    def told(inputs: Inputs) -> Inputs:
        mean, deviation = known[inputs.layer]
        return replace(inputs, mean=(mean,) * len(inputs.bands), std=(deviation,) * len(inputs.bands))

    parts = {
        name: replace(part, inputs=told(part.inputs))
        for name in ("hr", "s2", "s1")
        if (part := getattr(spec.encoder, name)) is not None
    }
    torch.manual_seed(0)
    with torch.device(device):
        made = build(replace(spec, encoder=replace(spec.encoder, **parts)))
    made.train()
    if recipe.activations != "keep":
        for block in parallel.blocks(made):
            parallel.forgetful(block, selective=recipe.activations == "selective")
    return made


def measured(size: str, arguments: argparse.Namespace) -> dict[str, float]:
    """One size: seconds of a step, operations, memory. Raises torch.OutOfMemoryError."""
    recipe, device = SIZES[size](), arguments.device
    gpu = device.startswith("cuda")
    module = method(recipe, device)
    samples = places(arguments.batch).to(device)
    learns = [part for part in module.parameters() if part.requires_grad]
    optimizer = torch.optim.AdamW(learns, lr=1e-6, betas=(0.9, 0.999), fused=gpu)
    half = torch.autocast(
        torch.device(device).type, torch.bfloat16, enabled=recipe.precision == "bf16" and not arguments.fp32
    )
    with half, meter.step_flops() as flops:
        module({"scenes": samples}, Progress(0, 1000))
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    clocks, processor = [], []
    for step in range(arguments.steps + 1):
        began, worked = time.perf_counter(), time.process_time()
        with half:
            losses = module({"scenes": samples}, Progress(step + 20, 1000))
        losses.total.backward()
        optim.clip(learns, 3.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        module.after_step(Progress(step + 21, 1000))
        if gpu:
            torch.cuda.synchronize()
        clocks.append(time.perf_counter() - began)
        processor.append(time.process_time() - worked)
    if not torch.isfinite(losses.total):
        raise ValueError(f"the loss of {size} is {losses.total.item()}")
    return {
        "trained": sum(part.numel() for part in learns),
        "seconds": statistics.median(clocks[1:]),
        "cpu_seconds": statistics.median(processor[1:]),
        "flops": flops[0],
        "memory_gb": meter.memory(device),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    gpu = torch.cuda.is_available()
    parser.add_argument("--sizes", default="small,base,huge" if gpu else "small")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10 if gpu else 2)
    parser.add_argument("--threads", type=int, default=16 if gpu else 1)
    parser.add_argument("--fp32", action="store_true", help="in place of the recipe's precision")
    parser.add_argument("--device", default="cuda" if gpu else "cpu")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    name = torch.cuda.get_device_name() if gpu else f"{arguments.threads} threads of a processor"
    print(f"{name}, torch {torch.__version__}, batch {arguments.batch}, 1 + 20 + 10 dates")
    print(f"{'size':8}{'trained':>15}{'s/step':>9}{'CPU s':>8}{'places/s':>10}{'TFLOP/place':>13}{'GB':>8}")
    rows = []
    for size in arguments.sizes.split(","):
        try:
            row = measured(size, arguments)
        except torch.OutOfMemoryError as error:
            print(f"{size:8} does not fit: {str(error).splitlines()[0]}")
            continue
        rows.append({"size": size, **row})
        print(
            f"{size:8}{row['trained']:15,.0f}{row['seconds']:9.2f}{row['cpu_seconds']:8.2f}"
            f"{arguments.batch / row['seconds']:10.3f}{row['flops'] / arguments.batch / 1e12:13.3f}"
            f"{row['memory_gb']:8.2f}",
            flush=True,
        )
    if arguments.out:
        arguments.out.write_text(
            json.dumps({"device": name, "torch": torch.__version__, "rows": rows}, indent=1)
        )


if __name__ == "__main__":
    main()
