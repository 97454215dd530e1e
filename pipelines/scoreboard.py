"""The scoreboard: our scores beside those that papers print for the same protocol, and what to mind in between.

A board is read from the `scores.json` that a transfer leaves. It says what data of what version was used, how often was
trained, whether a part of the benchmark stood for the whole, which encoders do not beat what needs none, and where two
protocols of one data set cannot be compared. Ours are shares, printed scores percent: both are shown in percent.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.published import PROTOCOLS, Protocol, Published, numbers

__all__ = ["Board", "Row", "baselines", "boards", "headline", "spread", "verdicts"]

HEADLINE = {
    "classify": "accuracy",
    "segment": "mean_iou",
    "multilabel": "map_micro",
    "change": "change_f1",
    "crops": "accuracy",
}
"""The score of a task that stands for it where no paper says another."""


@dataclass(frozen=True)
class Row:
    """One line of a board: an encoder of ours, a baseline, or a paper's method."""

    kind: str  # ours, baseline, paper
    name: str
    score: str
    seeds: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Board:
    """Scores of one protocol at one share of the labels."""

    protocol: str
    title: str
    paper: str
    metric: str
    share: float
    data: str  # name@version and fingerprint
    scored: str  # the split and how many samples, ours and the paper's
    rows: tuple[Row, ...]
    warnings: tuple[str, ...] = ()
    subset: str = ""
    verdicts: tuple[str, ...] = ()


def headline(protocol: str, task: str) -> str:
    """The score that stands for a protocol, or for a task of that kind."""
    known = PROTOCOLS.get(protocol)
    return known.metric if known else HEADLINE.get(task, "accuracy")


def boards(files: Iterable[Path]) -> tuple[Board, ...]:
    """The boards of some transfers' scores.json, one a protocol and share; a file that holds none gives none."""
    read = _read(files)
    together = [str(values["protocol"]) for values in read]
    return tuple(
        _board(values, share, together)
        for values in read
        for share in dict.fromkeys(float(cell["share"]) for cell in values["cells"])
    )


def baselines(files: Iterable[Path], share: float) -> list[dict[str, Any]]:
    """Scores of the baselines at a share of the labels, each `{"arm", "scores"}` with one of `scores` for each seed."""
    return [
        {
            "arm": cell["arm"],
            "scores": [
                {
                    name: one["values"][seed]
                    for name, one in cell["scores"].items()
                    if seed < len(one["values"])
                }
                for seed in range(cell["seeds"])
            ],
        }
        for values in _read(files)
        for cell in values["cells"]
        if cell["kind"] == "baseline" and cell["share"] == share
    ]


def _read(files: Iterable[Path]) -> list[Mapping[str, Any]]:
    found = []
    for path in files:
        try:
            values = json.loads(path.read_bytes())
        except (FileNotFoundError, ValueError):
            continue
        if isinstance(values, Mapping) and "cells" in values:
            found.append(values)
    return found


def _board(values: Mapping[str, Any], share: float, together: Sequence[str]) -> Board:
    name, metric = str(values["protocol"]), str(values["metric"])
    protocol, data = PROTOCOLS.get(name), values["data"]
    ours = [cell for cell in values["cells"] if cell["share"] == share]
    printed = [one for one in numbers(name) if one.metric == metric and math.isclose(one.share, share)]
    rows = [_row(cell, metric) for cell in ours] + [_paper(one) for one in printed]
    here = f"ours: {data['split']}, {data['samples']:,} samples"
    return Board(
        protocol=name,
        title=f"{protocol.dataset} as in {protocol.paper}" if protocol else name,
        paper=protocol.paper if protocol else "",
        metric=metric,
        share=share,
        data=f"{data['name']} ({data['fingerprint'][:12]})",
        scored=f"{here}; the paper: {protocol.scored_on}" if protocol else here,
        rows=tuple(rows),
        warnings=_warnings(name, protocol, values, together),
        subset=" ".join(part for part in (_unfinished(values), _subset(data)) if part),
        verdicts=verdicts(ours, metric),
    )


def _row(cell: Mapping[str, Any], metric: str) -> Row:
    score = cell["scores"].get(metric, {"mean": None, "spread": None, "values": []})
    text = "–" if score["mean"] is None else f"{100 * score['mean']:.2f}"
    if score["spread"] is not None:
        text += f" ± {100 * score['spread']:.2f}"
    note = "; ".join(part for part in (_stages(cell), _cost(cell)) if part)
    return Row(cell["kind"], str(cell["arm"]), text, int(cell["seeds"]), note)


def _stages(cell: Mapping[str, Any]) -> str:
    """The accuracy of every stage, where a probe was asked of each."""
    found = [one["mean"] for name, one in cell["scores"].items() if name.startswith("accuracy_stage_")]
    return f"stages {', '.join(f'{100 * mean:.2f}' for mean in found)}" if found else ""


def _cost(cell: Mapping[str, Any]) -> str:
    """Time of a run, and the most memory it took."""
    if cell.get("train_seconds") is None:
        return ""
    return (
        f"{cell['train_seconds']:.0f} s to train, {cell['score_seconds']:.0f} s to score, "
        f"{cell['memory_gb']:.1f} GB"
    )


def _paper(one: Published) -> Row:
    spread = f" ± {one.spread:.2f}" if one.spread is not None else ""
    return Row("paper", one.method, f"{one.value:.2f}{spread}", None, one.note)


def _warnings(
    name: str, protocol: Protocol | None, values: Mapping[str, Any], together: Sequence[str]
) -> tuple[str, ...]:
    """What makes the numbers of a board differ in kind."""
    if protocol is None:
        return ("no paper reports numbers by this protocol",)
    found = list(protocol.warnings)
    if protocol.ours:
        found.append(f"settings that no source states and are our choice: {', '.join(protocol.ours)}")
    seeds = max((int(cell["seeds"]) for cell in values["cells"] if cell["kind"] == "ours"), default=0)
    if seeds < protocol.repeats:
        found.append(f"the paper trains {protocol.repeats} times, ours {seeds}")
    if values.get("changed"):
        found.append(f"settings other than the protocol's: {', '.join(values['changed'])}")
    for other in dict.fromkeys(together):
        beside = PROTOCOLS.get(other)
        if other == name or beside is None or beside.dataset != protocol.dataset:
            continue
        if (beside.scored_on, beside.metric) != (protocol.scored_on, protocol.metric):
            found.append(
                f"{other} scores {beside.dataset} otherwise ({beside.metric} on {beside.scored_on}): do not compare"
            )
    return tuple(found)


def _unfinished(values: Mapping[str, Any]) -> str:
    """A plain statement where runs are still to come."""
    if not values.get("missing"):
        return ""
    return f"{values['missing']} of {values['runs']} runs are not through yet: means are of the others."


def _subset(data: Mapping[str, Any]) -> str:
    """A plain statement where not all of the benchmark was there."""
    if not data["partial"]:
        return ""
    return f"Run on a part of the benchmark: {'; '.join(data['partial'])}. These are not scores of the benchmark."


def verdicts(cells: Sequence[Mapping[str, Any]], metric: str) -> tuple[str, ...]:
    """A sentence for each encoder whose mean does not exceed the best baseline's."""
    means = {
        kind: {
            str(cell["arm"]): cell["scores"].get(metric, {}).get("mean")
            for cell in cells
            if cell["kind"] == kind
        }
        for kind in ("ours", "baseline")
    }
    known = {name: mean for name, mean in means["baseline"].items() if mean is not None}
    if not known:
        return ()
    best = max(known, key=lambda name: known[name])
    return tuple(
        f"{name} does not beat {best}, which needs no encoder: {100 * mean:.2f} against {100 * known[best]:.2f}."
        for name, mean in means["ours"].items()
        if mean is not None and mean <= known[best]
    )


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation over seeds (n - 1; none of one value) and the values; nan is a score that is not."""
    known = [value for value in values if isinstance(value, int | float) and math.isfinite(value)]
    return {
        "mean": statistics.fmean(known) if known else None,
        "spread": statistics.stdev(known) if len(known) > 1 else None,
        "values": list(values),
    }
