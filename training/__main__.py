"""`python -m training`: one run from the command line, in this process, under torchrun, or on Ray workers.

    python -m training pretrain mae.smoke steps=100 --run-dir runs/try
    torchrun --nproc-per-node 8 -m training pretrain mae.vit_g12x4 --run-dir runs/big
    python -m training evaluate --run-dir runs/try --split val

A run that was interrupted goes on when the same command is given again.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from geodata.errors import DataError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it went well, 2 for a request that cannot be met, 1 for a run that failed."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    arguments = _parsed(argv)
    try:
        if arguments.command == "evaluate":
            print(json.dumps(_evaluate(arguments.run_dir, arguments.split, arguments.device), indent=1))
        else:
            _train(arguments)
    except (ValueError, DataError) as error:
        print(f"swath: {error}", file=sys.stderr)
        return 2
    except (OSError, RuntimeError) as error:
        print(f"swath: {error}", file=sys.stderr)
        return 1
    return 0


def _train(arguments: argparse.Namespace) -> None:
    from training import loop, parallel, recipe

    settings = recipe.load(arguments.name, arguments.settings)
    if arguments.workers:
        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        from training import worker

        gpu = (arguments.device or parallel.best_device()).startswith("cuda")
        with worker.cluster():
            summary = worker.fit(settings, arguments.run_dir, workers=arguments.workers, use_gpu=gpu)
        print(json.dumps(asdict(summary)))
        return
    with parallel.joined(arguments.device) as place:
        summary = loop.train(
            settings, arguments.run_dir, device=place.device, rank=place.rank, world=place.world
        )
    if place.rank == 0:
        print(json.dumps(asdict(summary)))
        if arguments.command == "finetune":
            print(json.dumps(_evaluate(arguments.run_dir, "val", arguments.device), indent=1))


def _evaluate(run_dir: Path, split: str, device: str | None) -> dict[str, float]:
    from training import evaluate, parallel
    from training.checkpoint import write_json

    device = device or parallel.best_device()
    recipe, method = evaluate.restore(run_dir, device)
    scores = evaluate.evaluate(method, evaluate.held_out(recipe, split), device)
    write_json(run_dir / f"scores-{split}.json", scores)
    return scores


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """Settings may stand before and after options, which argparse alone does not allow."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    stray = [word for word in rest if word.startswith("-") or "=" not in word]
    if stray or (rest and arguments.command == "evaluate"):
        parser.error(f"unrecognised: {' '.join(stray or rest)}; settings are written key=value")
    if rest:
        arguments.settings += rest
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for command, text in (
        ("pretrain", "train a method and export its encoder"),
        ("finetune", "train a task on an encoder and score it on the validation split"),
    ):
        sub = commands.add_parser(command, help=text)
        sub.add_argument("name", help="a recipe: mae.smoke, my_pkg.methods.mine.small, or a .json/.yaml file")
        sub.add_argument(
            "settings", nargs="*", metavar="key=value", help="changes, as in steps=100 optim.clip=1.0"
        )
        sub.add_argument("--workers", type=int, default=0, help="Ray workers; 0 (default): this process")
        _common(sub)
    sub = commands.add_parser("evaluate", help="score the newest checkpoint of a run")
    sub.add_argument("--split", default="val", choices=("train", "val", "test"))
    _common(sub)
    return parser


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run-dir", type=Path, required=True, help="where the run is, or will be")
    parser.add_argument("--device", default=None, help="cpu or cuda; default: cuda where there is one")


if __name__ == "__main__":
    sys.exit(main())
