"""Step time, utilisation and memory of masked autoencoding on one GPU, and the same against the reference's code path.

For B12x1, L12x4, H12x4 and G12x4 at 224 px in bf16 with fused AdamW: the largest batch of a ladder that fits, then the
median of timed steps. Utilisation counts only tokens that are kept, three times the forward pass, over the published dense
peak. The reference's path is timm's blocks with attention written out, every patch embedded before it is dropped, tokens put
back in order and every one of them predicted, as the original code does; ours is this project's module as it trains.

Needs torch 2.11 or newer, timm, numpy and pydantic; no Ray, Prefect or rasterio, and no data. `make bench-gpu` runs it.

    python tests/gpu/bench_mae.py [--models b,l,h,g] [--steps 20] [--compile] [--out FILE.json]
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from training import meter, parallel  # noqa: E402
from training.encoders import Inputs, vit  # noqa: E402
from training.methods import mae  # noqa: E402

RGB = Inputs(layer="hr", bands=("R", "G", "B"), mean=(0.0,) * 3, std=(1.0,) * 3)
SIZES: dict[str, Callable[[Inputs], vit.Spec]] = {
    "b": vit.vit_b12x1,
    "l": vit.l12x4,
    "h": vit.h12x4,
    "g": vit.g12x4,
    "smoke": lambda inputs: vit.Spec(inputs=inputs, width=96, depth=2, heads=4, branches=2),
}
LADDER = (1024, 768, 512, 384, 256, 192, 128, 96, 64, 32, 16, 8)
Loss = Callable[[Tensor], Tensor]


def ours(spec: vit.Spec, activations: str) -> tuple[nn.Module, Loss]:
    model = mae.build(mae.Spec(encoder=spec))
    if activations != "keep":
        for block in parallel.blocks(model):
            parallel.forgetful(block, selective=activations == "selective")
    places = (spec.image // spec.patch) ** 2
    return (
        model,
        lambda images: model.losses(images, torch.rand(len(images), places, device=images.device)).total,
    )


class Unfused(nn.Module):
    """Attention as three products and a softmax."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.qkv, self.proj, self.heads = attention.qkv, attention.proj, attention.num_heads

    def forward(self, tokens: Tensor, **_: object) -> Tensor:
        batch, count, width = tokens.shape
        query, key, value = self.qkv(tokens).reshape(batch, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weight = (query @ key.transpose(-2, -1) * (width // self.heads) ** -0.5).softmax(-1)
        return self.proj((weight @ value).transpose(1, 2).reshape(batch, count, width))


def plain(spec: vit.Spec, *, fused: bool) -> tuple[nn.Module, Loss]:
    """The paper's recipe on timm's blocks, parallel where there are branches; without `fused`, the original code's path."""
    from timm.models.vision_transformer import Block, ParallelThingsBlock, PatchEmbed

    norm = partial(nn.LayerNorm, eps=1e-6)
    body: Callable[..., nn.Module] = Block
    if spec.branches > 1:
        body = partial(ParallelThingsBlock, num_parallel=spec.branches)
    model, side, narrow = nn.Module(), spec.image // spec.patch, 512
    model.embed = PatchEmbed(spec.image, spec.patch, 3, spec.width)
    model.cls = nn.Parameter(torch.zeros(1, 1, spec.width))
    model.places = nn.Parameter(vit.sincos_table(spec.width, side), requires_grad=False)
    blocks = [
        body(spec.width, spec.heads, mlp_ratio=4.0, qkv_bias=spec.has_qkv_bias, norm_layer=norm)
        for _ in range(spec.depth)
    ]
    model.blocks, model.norm = nn.Sequential(*blocks), norm(spec.width)
    model.enter, model.mask = nn.Linear(spec.width, narrow), nn.Parameter(torch.zeros(1, 1, narrow))
    model.decoder_places = nn.Parameter(vit.sincos_table(narrow, side), requires_grad=False)
    decoder = [Block(narrow, 16, 4.0, qkv_bias=True, norm_layer=norm) for _ in range(8)]
    model.decoder, model.last = nn.Sequential(*decoder), norm(narrow)
    model.leave = nn.Linear(narrow, spec.patch**2 * 3)
    for parent in [] if fused else list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__ == "Attention":
                setattr(parent, name, Unfused(child))

    def loss(images: Tensor) -> Tensor:
        tokens = model.embed(images) + model.places[:, 1:]
        count = tokens.shape[1]
        order = torch.rand(tokens.shape[:2], device=images.device).argsort(1)
        back, kept = order.argsort(1), order[:, : int(count * 0.25)]
        tokens = tokens.gather(1, kept[..., None].expand(-1, -1, tokens.shape[2]))
        first = (model.cls + model.places[:, :1]).expand(len(images), -1, -1)
        tokens = model.enter(model.norm(model.blocks(torch.cat([first.to(tokens.dtype), tokens], 1))))
        hidden = model.mask.to(tokens.dtype).expand(len(images), count - kept.shape[1], -1)
        rest = torch.cat([tokens[:, 1:], hidden], 1).gather(1, back[..., None].expand(-1, -1, narrow))
        tokens = torch.cat([tokens[:, :1], rest], 1) + model.decoder_places
        guess = model.leave(model.last(model.decoder(tokens)))[:, 1:]
        patches = vit.patchify(images, spec.patch).permute(0, 1, 3, 4, 2).flatten(2)
        masked = (back >= kept.shape[1]).float()
        return ((guess - patches).square().mean(-1) * masked).sum() / masked.sum()

    return model, loss


def timed(
    build: Callable[[], tuple[nn.Module, Loss]],
    batch: int,
    image: int,
    device: str,
    steps: int,
    *,
    compiled: bool,
) -> dict[str, float]:
    """Median seconds of a step, FLOPs of it, and peak memory. Raises torch.OutOfMemoryError."""
    torch.manual_seed(0)
    model, loss = build()
    model.to(device).train()
    learns = [parameter for parameter in model.parameters() if parameter.requires_grad]
    fused = device.startswith("cuda")
    optimizer = torch.optim.AdamW(learns, lr=1e-5, betas=(0.9, 0.95), weight_decay=0.05, fused=fused)
    images = torch.randn(batch, 3, image, image, device=device)
    half = partial(torch.autocast, torch.device(device).type, torch.bfloat16)
    with half(), torch.no_grad(), meter.forward_flops() as flops:
        loss(images[: min(batch, 8)])
    run = torch.compile(loss) if compiled else loss
    times, value = [], torch.zeros(())
    for _ in range(steps + 3):
        began = time.perf_counter()
        with half():
            value = run(images)
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if fused:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    if not torch.isfinite(value):
        raise ValueError("the loss is not finite")
    return {
        "seconds": statistics.median(times[3:]),
        "flops": 3 * flops[0] / min(batch, 8) * batch,  # the backward pass costs twice
        "memory_gb": meter.memory(device),
        "loss": float(value.detach()),
    }


def largest(
    build: Callable[[], tuple[nn.Module, Loss]],
    image: int,
    device: str,
    steps: int,
    ladder: tuple[int, ...],
    *,
    compiled: bool,
) -> tuple[int, dict[str, float]] | None:
    for batch in ladder:
        try:
            if device.startswith("cuda"):
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            return batch, timed(build, batch, image, device, steps, compiled=compiled)
        except torch.OutOfMemoryError:
            continue
    return None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="b,l,h,g")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, help="one batch instead of the largest that fits")
    parser.add_argument("--activations", default="keep", choices=("keep", "selective", "recompute"))
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    device = arguments.device
    name = torch.cuda.get_device_name() if device.startswith("cuda") else "cpu"
    peak = meter.peak_rate(device, "bf16")
    torch.set_float32_matmul_precision("high")
    print(
        f"{name}, torch {torch.__version__}, bf16, peak {peak / 1e12:.4g} TFLOP/s, activations {arguments.activations}"
    )
    print(f"{'model':8}{'path':12}{'batch':>6}{'s/step':>9}{'images/s':>10}{'MFU':>8}{'GB':>8}")
    rows = []
    for key in arguments.models.split(","):
        spec = SIZES[key](RGB)
        ladder = (arguments.batch,) if arguments.batch else LADDER
        for path, build in (
            ("ours", partial(ours, spec, arguments.activations)),
            ("reference", partial(plain, spec, fused=False)),
        ):
            found = largest(build, spec.image, device, arguments.steps, ladder, compiled=arguments.compile)
            if found is None:
                print(f"{key:8}{path:12}   none fits")
                continue
            batch, row = found
            mfu = row["flops"] / row["seconds"] / peak
            rate = batch / row["seconds"]
            rows.append(
                {"model": key, "path": path, "batch": batch, "mfu": mfu, "images_per_second": rate, **row}
            )
            print(
                f"{key:8}{path:12}{batch:6}{row['seconds']:9.4f}{rate:10.1f}{mfu:8.1%}{row['memory_gb']:8.1f}",
                flush=True,
            )
    if arguments.out:
        arguments.out.write_text(
            json.dumps({"device": name, "torch": torch.__version__, "rows": rows}, indent=1)
        )


if __name__ == "__main__":
    main()
