"""PerA against DINOv2 and the other baselines of its table 10: step time, operations, and memory, in one run.

Each case trains on the same number of normalised crops, made beforehand, in a process of its own: forward, backward, clipping,
AdamW and the teacher's step. Operations are counted in a step of forward and backward, attention and the frozen teacher
included, without drop path, and given as multiply-accumulates an image beside those expected from the architecture. What is
kept for the backward pass is the storage that autograd saves, parameters left out. Peak memory is the device's, or the
process's on a CPU. Time on a CPU is processor time, which other work on the machine disturbs less than the clock.

The paper's table 10 is printed beside. Its GFLOPs are multiply-accumulates of a forward pass without attention, counted four
times for DINO and DINOv2, for MoCo v3 at 512 pixels, and with heads of two sizes.

`--augment` measures how long ours and torchvision's pictures-one-by-one pipeline take to cut PerA's twenty crops of a tile.

Needs torch, timm, numpy, pydantic and yaml; for the pipeline compared with, torchvision and Pillow.

    python tests/bench/bench_distill.py [--tiny] [--cases PerA DINOv2] [--batch 2] [--steps 3] [--augment] [--out FILE.json]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from training import meter, optim  # noqa: E402
from training.crops import Pairs  # noqa: E402
from training.methods import Method, Progress, build, dino, dinov2, mae, moco, pera  # noqa: E402
from training.objectives import Losses  # noqa: E402
from training.recipe import Recipe, replace  # noqa: E402

TILE = 512
LARGE = {"prototypes": 131072, "bottleneck": 384}
SMALL = {"prototypes": 65536, "bottleneck": 256}


def headed(base: Recipe, head: dict[str, int]) -> Recipe:
    """The recipe with a head of another size."""
    spec = base.method
    if isinstance(spec, pera.Spec):
        return replace(base, method=replace(spec, head=replace(spec.head, **head)))
    return replace(base, method=replace(spec, **head))


def upstream() -> Recipe:
    """DINOv2 as upstream, but on crops as large as everybody's."""
    base, places = dinov2.as_upstream(), dinov2.as_pera_repo().method.crops
    crops = replace(base.method.crops, count=places.count, size=places.size)
    return replace(
        base, method=replace(base.method, encoder=replace(base.method.encoder, image=448), crops=crops)
    )


CASES: dict[str, tuple[Callable[[], Recipe], float | None]] = {
    "PerA 131072/384": (lambda: headed(pera.vit_b16(), LARGE), 260.7),
    "PerA 65536/256": (lambda: headed(pera.vit_b16(), SMALL), 259.0),
    "DINOv2 65536/256": (lambda: headed(dinov2.as_pera_repo(), SMALL), 741.4),
    "DINOv2 131072/384": (lambda: headed(dinov2.as_pera_repo(), LARGE), 795.5),
    "DINOv2 upstream 65536/256": (lambda: headed(upstream(), SMALL), 741.4),
    "DINO 65536/256": (lambda: headed(dino.as_pera_repo(), SMALL), 705.2),
    "MoCo v3": (moco.as_pera_repo, 628.0),
    "MAE": (mae.as_pera_repo, 129.3),
}
"""Recipe, and the multiply-accumulates an image of a step that are expected (10^9, ViT-B/16, 448 pixels)."""

TABLE10 = {  # images a second, "GFLOPs", GB
    "PerA 131072/384": (112.69, 146.85, 6.64),
    "DINOv2 65536/256": (69.28, 1249.93, 26.16),
    "DINO 65536/256": (33.90, 1177.58, 24.82),
    "MoCo v3": (50.72, 351.05, 11.55),
}
RATIOS = (
    ("DINOv2 65536/256", "PerA 131072/384", "the paper's heads"),
    ("DINOv2 65536/256", "PerA 65536/256", "equal heads"),
    ("DINOv2 131072/384", "PerA 131072/384", "equal large heads"),
    ("DINOv2 upstream 65536/256", "PerA 65536/256", "upstream, equal heads"),
)


def tiny(base: Recipe) -> Recipe:
    """ViT-S/16 on crops of 224 pixels, with heads of 4096 prototypes where there are any."""
    spec = base.method
    encoder = replace(spec.encoder, image=224, width=384, heads=6)
    changed = replace(base, method=replace(spec, encoder=encoder))
    heads = isinstance(spec, pera.Spec | dino.Spec | dinov2.Spec)
    return headed(changed, {"prototypes": 4096, "bottleneck": 256}) if heads else changed


def losses(method: Method, batch: int, device: str) -> Callable[[], Losses]:
    """What a step computes, on crops that lie on the device already."""
    spec, start = method.spec, Progress(0, 10**6)
    side = spec.encoder.image
    places = getattr(spec, "places", None) or getattr(spec, "crops", None)

    def crops(count: int, pixels: int) -> Tensor:
        return torch.randn(count * batch, 3, pixels, pixels, device=device)

    if isinstance(method, mae.MAE):
        images = crops(1, side)
        return lambda: method.losses(images, method.noise(images))
    large, small = crops(2, side), crops(places.count, places.size)
    if isinstance(method, moco.MoCo):
        return lambda: method.losses(large, 0.2)
    if isinstance(method, dino.DINO):
        return lambda: method.losses(large, small, 0.05)
    if isinstance(method, dinov2.DINOv2):
        return lambda: method.losses(large, small, method.masks(len(large)), 0.05)
    pairs = Pairs((large, small), (large + 0.1, small + 0.1))
    return lambda: method.losses(pairs, [method.noise(images) for images in pairs.student], start)


def counted(method: Method, loss: Callable[[], Losses], half: Callable[[], object]) -> tuple[int, int]:
    """Operations of a step, and bytes kept for its backward pass; drop path is off meanwhile."""
    layers = [part for part in method.modules() if hasattr(part, "drop_path")]
    rates = [layer.drop_path for layer in layers]
    for layer in layers:
        layer.drop_path = 0.0
    own = {part.untyped_storage().data_ptr() for part in method.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with meter.forward_flops() as flops:
        with half(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            total = loss().total
        total.backward()
    method.zero_grad(set_to_none=True)
    for layer, rate in zip(layers, rates, strict=True):
        layer.drop_path = rate
    return flops[0], sum(kept.values())


def measure(case: str, arguments: argparse.Namespace) -> dict[str, float]:
    """One case in this process."""
    device, gpu = arguments.device, arguments.device.startswith("cuda")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    recipe = CASES[case][0]()
    recipe = tiny(recipe) if arguments.tiny else recipe
    with torch.device(device):
        method = build(recipe.method)
    method.to(device).train()
    loss = losses(method, arguments.batch, device)

    def half() -> torch.autocast:
        return torch.autocast(
            torch.device(device).type, torch.bfloat16, enabled=arguments.precision == "bf16"
        )

    flops, kept = counted(method, loss, half)
    learns = [part for part in method.parameters() if part.requires_grad]
    optimizer = torch.optim.AdamW(learns, lr=1e-6, betas=(0.9, 0.999), eps=2e-5, weight_decay=0.04, fused=gpu)
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds, walls = [], []
    for _ in range(arguments.warmup + arguments.steps):
        began, wall = time.process_time(), time.perf_counter()
        with half():
            value = loss().total
        value.backward()
        optim.clip(learns, 3.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        method.after_step(Progress(1, 10**6))
        if gpu:
            torch.cuda.synchronize()
        seconds.append(time.process_time() - began)
        walls.append(time.perf_counter() - wall)
    if not torch.isfinite(value):
        raise ValueError(f"the loss of {case} is {value.item()}")
    return {
        "seconds": statistics.median((walls if gpu else seconds)[arguments.warmup :]),
        "least": min((walls if gpu else seconds)[arguments.warmup :]),
        "macs": flops / 2 / arguments.batch,
        "kept": kept / arguments.batch,
        "memory": meter.memory(device) * 1e9,
        "reserved": torch.cuda.max_memory_reserved() if gpu else 0,
        "trained": sum(part.numel() for part in learns),
    }


def one_by_one(count: int) -> float:
    """Seconds a tile of PerA's pipeline as its repository writes it: Pillow and torchvision, crop by crop, one thread."""
    import numpy as np
    from PIL import Image
    from torchvision import transforms
    from torchvision.transforms import functional

    spec = pera.vit_b16().method
    jitter = transforms.ColorJitter(0.4, 0.4, 0.2, 0.1)

    def cropped(pixels: int, share: tuple[float, float]) -> Callable[[Image.Image], Image.Image]:
        crop = transforms.RandomResizedCrop(pixels, share, spec.places.aspect, antialias=True)
        flips = transforms.RandomHorizontalFlip(), transforms.RandomVerticalFlip()
        return transforms.Compose([crop, *flips])

    def chance(limit: float) -> bool:
        return bool(torch.rand(()) < limit)

    def coloured(image: Image.Image) -> tuple[Image.Image, Image.Image]:
        student, teacher = image.copy(), image.copy()
        if chance(0.8):
            student = functional.to_grayscale(image, 3) if chance(0.1) else jitter(image)
        if chance(0.1):
            teacher = jitter(image)
        return student, teacher

    large = cropped(spec.encoder.image, spec.places.large)
    small = cropped(spec.places.size, spec.places.small)
    tiles = [Image.fromarray(tile) for tile in pictures(count).permute(0, 2, 3, 1).numpy().astype(np.uint8)]
    began = time.process_time()
    for tile in tiles:
        for cut in [large] * 2 + [small] * spec.places.count:
            for image in coloured(cut(tile)):
                whole = functional.to_tensor(image)
                functional.normalize(whole, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), inplace=True)
    return (time.process_time() - began) / count


def pictures(count: int) -> Tensor:
    """Smooth random tiles (count, 3, 512, 512) of 8 bits."""
    coarse = torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return (nn.functional.interpolate(coarse, (TILE, TILE), mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)


def augmented(count: int, device: str) -> float:
    """Seconds a tile of ours: all crops of a batch at once, on the device; processor seconds where that is the CPU."""
    with torch.device("meta"):
        method = pera.build(pera.vit_b16().method)
    samples = SimpleNamespace(
        layers={"hr": pictures(count)[:, None].to(device)},
        dates={"hr": torch.zeros(count, 1, dtype=torch.int32, device=device)},
        bands={},
        nodata={},
    )
    method.train()
    gpu, found = device.startswith("cuda"), []
    for _ in range(4):
        began = time.perf_counter() if gpu else time.process_time()
        method.pairs(samples)
        if gpu:
            torch.cuda.synchronize()
        found.append((time.perf_counter() if gpu else time.process_time()) - began)
    return min(found[1:]) / count


def augmentation(arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds a tile, ours on the device and on one thread, and the reference's."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = {"ours, one thread of the processor": augmented(arguments.batch, "cpu")}
    if arguments.device.startswith("cuda"):
        found["ours, on the device"] = augmented(arguments.batch, arguments.device)
    try:
        found["Pillow and torchvision, one by one, one thread"] = one_by_one(max(4, arguments.batch))
    except ModuleNotFoundError as error:
        print(f"the pipeline compared with is left out: {error}", file=sys.stderr)
    return found


def run(case: str, arguments: argparse.Namespace) -> dict[str, float] | None:
    """One case, or the augmentation, in a process of its own."""
    words = [sys.executable, __file__, "--case", case]
    for name in ("steps", "warmup", "batch", "threads", "precision", "device"):
        words += [f"--{name}", str(getattr(arguments, name))]
    environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads)}
    words += ["--tiny"] if arguments.tiny else []
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
        print(f"{case}: left out ({last})", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def printed(rows: dict[str, dict[str, float]], arguments: argparse.Namespace) -> None:
    """Our numbers beside the paper's, and the ratios its claims are about."""
    gpu = arguments.device.startswith("cuda")
    what = "ViT-S/16, crop 224, 4096 prototypes" if arguments.tiny else "ViT-B/16, crop 448"
    where = torch.cuda.get_device_name() if gpu else f"{arguments.threads} threads of a processor"
    print(f"{what}, batch {arguments.batch}, {arguments.precision}, {where}, load {os.getloadavg()[0]:.1f}")
    unit = "s" if gpu else "CPU s"
    print(f"{'':26}{unit + '/step':>11}{'im/s':>8}{'GMAC/im':>9}{'expected':>9}{'kept MiB/im':>12}{'peak GB':>9}"
          f"{'trained':>13}   paper: im/s, GFLOPs, GB")  # fmt: skip
    for case, row in rows.items():
        expected = "" if arguments.tiny or CASES[case][1] is None else f"{CASES[case][1]:.1f}"
        paper = ", ".join(f"{value:.2f}" for value in TABLE10.get(case, ())) if not arguments.tiny else ""
        print(f"{case:26}{row['seconds']:11.3f}{arguments.batch / row['seconds']:8.2f}{row['macs'] / 1e9:9.1f}{expected:>9}"
              f"{row['kept'] / 2**20:12.0f}{row['memory'] / 1e9:9.2f}{row['trained']:13,.0f}   {paper}")  # fmt: skip
    for slow, fast, heads in RATIOS:
        if slow in rows and fast in rows:
            mine, other = rows[fast], rows[slow]
            print(f"{slow} over {fast} ({heads}): time {other['seconds'] / mine['seconds']:.2f}, operations "
                  f"{other['macs'] / mine['macs']:.2f}, kept {other['kept'] / mine['kept']:.2f}, peak memory "
                  f"{other['memory'] / mine['memory']:.2f}")  # fmt: skip
    print("paper: 1.63 times the images a second, 3.94 times the memory")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    gpu = torch.cuda.is_available()
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--augment", action="store_true")
    parser.add_argument("--cases", nargs="+", help="words that a case's name begins with")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--steps", type=int, default=50 if gpu else 3)
    parser.add_argument("--warmup", type=int, default=10 if gpu else 1)
    parser.add_argument("--threads", type=int, default=16 if gpu else 1)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--device", default="cuda" if gpu else "cpu")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.batch is None:
        arguments.batch = 16 if gpu else 4 if arguments.tiny else 2
    if arguments.case:
        found = augmentation(arguments) if arguments.case == "augment" else measure(arguments.case, arguments)
        print(json.dumps(found))
        return
    wanted = arguments.cases or ["PerA", "DINOv2"]
    rows = {}
    for case in CASES:
        if any(case.startswith(word) for word in wanted) and not (arguments.tiny and "131072" in case):
            found = run(case, arguments)
            if found is not None:
                rows[case] = found
                print(f"{case}: {found['seconds']:.2f} s", file=sys.stderr)
    if rows:
        printed(rows, arguments)
    crops = run("augment", arguments) if arguments.augment else None
    for name, value in (crops or {}).items():
        print(f"{value * 1e3:8.1f} ms a tile for PerA's 20 crops: {name}")
    if arguments.out is not None:
        arguments.out.write_text(json.dumps({"cases": rows, "augmentation": crops}, indent=1))


if __name__ == "__main__":
    main()
