"""One step of masked autoencoding, ViT-B/16 at 224 px: this project's against plain timm and transformers.

Each case runs in a process of its own, several rounds in turn, so that no case has the quiet machine to itself. What is
compared is processor time of forward, backward and AdamW on the same images, and the most memory; absolute times are this
machine's. Peers that are not installed are left out. `make bench` runs it.

    python tests/bench/bench_step.py [--rounds 3] [--steps 4] [--batch 8] [--threads 2]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE.parents[1]), str(HERE.parent / "gpu")]

import bench_mae  # noqa: E402

from training import meter  # noqa: E402
from training.encoders import vit  # noqa: E402

CASES = ("swath", "timm", "transformers")


def swath_step() -> tuple[torch.nn.Module, Callable]:
    return bench_mae.ours(vit.vit_b12x1(bench_mae.RGB), "keep")


def timm_step() -> tuple[torch.nn.Module, Callable]:
    return bench_mae.plain(vit.vit_b12x1(bench_mae.RGB), fused=True)


def transformers_step() -> tuple[torch.nn.Module, Callable]:
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    config = ViTMAEConfig(norm_pix_loss=False)
    config._attn_implementation = "sdpa"
    model = ViTMAEForPreTraining(config)
    return model, lambda images: model(images).loss


def measure(case: str, steps: int, batch: int, threads: int, precision: str) -> dict[str, float]:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model, loss = {"swath": swath_step, "timm": timm_step, "transformers": transformers_step}[case]()
    model.train()
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=1e-5, betas=(0.9, 0.95)
    )
    images = torch.randn(batch, 3, 224, 224)
    half = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    with meter.forward_flops() as flops, half, torch.no_grad():
        loss(images)
    times, walls = [], []
    for _ in range(steps + 1):
        began, wall = time.process_time(), time.perf_counter()
        with half:
            value = loss(images)
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        times.append(time.process_time() - began)
        walls.append(time.perf_counter() - wall)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {
        "cpu_s": min(times[1:]), "wall_s": min(walls[1:]), "memory": most, "flops": flops[0], "parameters": count,
    }  # fmt: skip


def run(case: str, arguments: argparse.Namespace) -> dict[str, float] | None:
    python = HERE.parents[1] / ".venv-bench" / "bin" / "python"
    words = [str(python if python.exists() else sys.executable), __file__, "--case", case]
    for name in ("steps", "batch", "threads", "precision"):
        words += [f"--{name}", str(getattr(arguments, name))]
    environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["?"])[-1]
        print(f"{case}: left out ({last})", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    arguments = parser.parse_args()
    if arguments.case:
        print(
            json.dumps(
                measure(
                    arguments.case, arguments.steps, arguments.batch, arguments.threads, arguments.precision
                )
            )
        )
        return
    best: dict[str, dict[str, float]] = {}
    for turn in range(arguments.rounds):
        for case in CASES:
            found = run(case, arguments) if turn == 0 or case in best else None
            if found is not None:
                before = best.get(case, found)
                best[case] = {name: min(value, before[name]) for name, value in found.items()}
    print(
        f"ViT-B/16 MAE, 224 px, batch {arguments.batch}, {arguments.precision}, {arguments.threads} threads; best of {arguments.rounds} x {arguments.steps}"
    )
    print(f"{'':14}{'CPU s':>8}{'wall s':>8}{'GB':>7}{'GFLOP forward':>15}{'parameters':>13}")
    for case, row in best.items():
        print(
            f"{case:14}{row['cpu_s']:8.2f}{row['wall_s']:8.2f}{row['memory'] / 1e9:7.2f}{row['flops'] / 1e9:15.1f}"
            f"{row['parameters']:13,.0f}"
        )
    peers = [case for case in best if case != "swath"]
    if peers:
        for what in ("cpu_s", "memory", "flops"):
            least = min(best[case][what] for case in peers)
            print(f"{what}: {best['swath'][what] / least:.3f} of the better peer")


if __name__ == "__main__":
    main()
