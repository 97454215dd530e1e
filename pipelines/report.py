"""The run's page: from the files a study left on disk to one self-contained `report.html`.

Nothing here remembers a run: `collect` reads `study.json` and the folders it names, so `swath report` rebuilds the
page at any time, on any machine the files were copied to. A part that is missing becomes a section that says so, a
file that does not parse becomes a note; neither is an error, because a report is read most when something went wrong.

Without a `study.json` the folder itself is taken for the one thing it holds: a pretraining run or a transfer; a corpus
has a page of its own, its card.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from geodata.files import write_atomic
from geodata.manifest import Corpus
from pipelines import card, scoreboard
from pipelines.evidence import LABELLED, Json, corpus_of, curation_of, finite, read_json, run_of, scores_of
from pipelines.page import (
    Arm,
    Curation,
    Licence,
    Page,
    Pretraining,
    Provenance,
    Run,
    Stage,
    Transfer,
    compare,
    count,
    render,
    size,
)

__all__ = ["collect", "render", "write"]

PRETRAINED, RANDOM = "pretrained", "random"  # how the names of the two compared arms begin


def write(study_dir: Path) -> Path:
    """Build `report.html` in the study's folder, whole or not at all, and say where it is; of a corpus, its card."""
    if (Path(study_dir) / "manifest.json").exists():
        return card.write(Path(study_dir))
    path = Path(study_dir) / "report.html"
    write_atomic(path, render(collect(study_dir)).encode())
    return path


def collect(study_dir: Path) -> Page:
    """Everything the page says, read from the study's folder. Raises ValueError when there is no such folder."""
    root = Path(study_dir)
    if not root.is_dir():
        raise ValueError(
            f"{root} is no folder: a report is made from the folder of a study, a corpus or a run"
        )
    notes: list[str] = []
    study = read_json(root / "study.json", notes) or infer(root)
    corpus = corpus_of(study, root, notes)
    curation = curation_of(corpus, notes) if corpus else None
    runs = [run_of(entry, root, notes) for entry in study.get("pretraining", ())]
    transfers = transfers_of(study, root, curation, notes)
    boards = scoreboard.boards(root / one for one in study.get("scores", ()))
    return Page(
        title=study.get("title") or f"Study {study.get('name', root.name)}",
        sentence=sentence(curation, runs, transfers, len(boards)),
        made=str(study.get("created", "")),
        curation=curation,
        pretraining=Pretraining(tuple(runs)) if runs else None,
        transfers=transfers,
        boards=boards,
        provenance=provenance_of(
            study, root, corpus, [*runs, *(run for one in transfers for run in one.runs)], notes
        ),
        notes=tuple(notes),
    )


def infer(root: Path) -> Json:
    """The study.json of a folder that has none: it holds transfers, or is one of many runs, a run, or empty."""
    boards = [str(path.relative_to(root)) for path in sorted(root.glob("*@*/scores.json"))]
    if boards:
        return {"title": f"Scores under {root.name}", "scores": boards}
    rows = {path.parent: read_json(path, []) or {} for path in sorted(root.glob("runs/*/scores.json"))}
    if rows or (root / "scores.json").exists():
        runs = [
            {
                "run": str(folder.relative_to(root)),
                "arm": row.get("arm", folder.name),
                "seed": row.get("seed"),
                "setting": "fine-tuned" if row.get("share", 1) == 1 else f"{row['share']:g} of the labels",
                "share": row.get("share", 1),
            }
            for folder, row in rows.items()
        ]
        of_all = read_json(root / "scores.json", []) or {}
        return {
            "title": f"Transfer {root.name}",
            "metric": of_all.get("metric", "mean_iou"),
            "transfers": runs or [{"run": ".", "arm": root.name}],
            "scores": ["scores.json"] if "cells" in of_all else [],
        }
    if (root / "metrics.jsonl").exists():
        return {"title": f"Run {root.name}", "pretraining": [{"run": "."}]}
    return {}


def transfers_of(
    study: Json, root: Path, curation: Curation | None, notes: list[str]
) -> tuple[Transfer, ...]:
    """One transfer for each setting of the study, arms in the order they were listed, baselines last."""
    metric, task = study.get("metric", "mean_iou"), study.get("task", "downstream task")
    entries = list(study.get("transfers", ()))
    settings = dict.fromkeys(str(entry.get("setting", "fine-tuned")) for entry in entries)
    transfers = []
    for setting in settings:
        chosen = [entry for entry in entries if str(entry.get("setting", "fine-tuned")) == setting]
        files = [root / one for one in study.get("scores", ())]
        baselines = [
            baseline_of(one["arm"], one["scores"])
            for one in scoreboard.baselines(files, chosen[0].get("share", 1))
        ] or [baseline_of(one.get("arm", "baseline"), [one]) for one in study.get("baselines", ())]
        arms = arms_of(chosen, root, notes)
        by_name = {arm.name: arm for arm in arms}
        pair = (
            next((arm for name, arm in by_name.items() if name.startswith(PRETRAINED)), None),
            next((arm for name, arm in by_name.items() if name.startswith(RANDOM)), None),
        )
        transfers.append(
            Transfer(
                task=task,
                setting=setting,
                metric=metric,
                arms=(*arms, *(baselines or majority_of(curation, arms))),
                runs=tuple(run_of(entry, root, notes) for entry in chosen),
                comparison=compare(pair[0], pair[1], metric) if pair[0] and pair[1] else None,
            )
        )
    return tuple(transfers)


def baseline_of(name: object, scores: Sequence[Json]) -> Arm:
    """A baseline as an arm: with a score for each seed, or with one that depends on none."""
    found = [scores_of(one) for one in scores]
    return Arm(str(name), dict(enumerate(found)) if len(found) > 1 else {None: found[0]})


def arms_of(entries: Sequence[Json], root: Path, notes: list[str]) -> tuple[Arm, ...]:
    """The scores of each arm by seed; an arm whose runs have no scores yet stays, empty."""
    scores: dict[str, dict[int | None, Json]] = {}
    for entry in entries:
        found = read_json(root / entry["run"] / "scores.json", notes) or {}
        scores.setdefault(str(entry.get("arm", "run")), {})[entry.get("seed")] = scores_of(found)
    return tuple(Arm(name, by_seed, index % 6 + 1) for index, (name, by_seed) in enumerate(scores.items()))


def majority_of(curation: Curation | None, arms: Sequence[Arm]) -> tuple[Arm, ...]:
    """The baseline of always naming the commonest class of the training split, exact from the counted labels.

    Nothing when the labels of the corpus were not counted by pixel, or the arms are scored on other classes.
    """
    scored = {name for arm in arms for scores in arm.scores.values() for name in scores}
    if curation is None or curation.class_unit != LABELLED:
        return ()
    present = {name: amounts["test"] for name, amounts in curation.classes.items() if amounts.get("test")}
    if not present or not {f"iou/{name}" for name in present} <= scored:
        return ()
    commonest = max(curation.classes, key=lambda name: curation.classes[name].get("train", 0))
    share, number = present.get(commonest, 0) / sum(present.values()), len({*present, commonest})
    scores = {
        "accuracy": share,
        "mean_iou": share / number,
        "mean_accuracy": (commonest in present) / len(present),
        "mean_f1": 2 * share / (1 + share) / number,
    }
    return (Arm(f"always {commonest}", {None: scores}),)


def provenance_of(
    study: Json, root: Path, corpus: Corpus | None, runs: Sequence[Run], notes: list[str]
) -> Provenance:
    """Names, documents, scenes, licences, environment, commands and times."""
    names: list[tuple[str, str, str]] = []
    documents: list[tuple[str, Json]] = []
    if corpus:
        names.append(("corpus", f"{corpus.name}@{corpus.version}", corpus.fingerprint))
        documents.append((f"corpus spec {corpus.name}@{corpus.version}", corpus.spec))
    names += [
        (str(made.get("kind", "")), str(made.get("name", "")), str(made.get("fingerprint", "")))
        for made in study.get("artifacts", ())
    ]
    documents += [(f"recipe {run.name} ({run.arm})", run.recipe) for run in runs if run.recipe]
    environments = [read_json(root / "environment.json", notes) or {}, *(run.environment for run in runs)]
    documents += [("environment of the last run", environments[-1])] if environments[-1] else []
    return Provenance(
        names=tuple(dict.fromkeys(names)),
        documents=tuple(documents),
        scenes=scenes_of(corpus) if corpus else (),
        licences=tuple(
            Licence(**{key: str(one.get(key, "")) for key in ("what", "licence", "attribution", "url")})
            for one in study.get("licences", ())
        ),
        environment=facts_of_environment(environments),
        commands=tuple(str(command) for command in study.get("commands", ())),
        stages=tuple(stage_of(stage) for stage in study.get("stages", ())),
    )


def scenes_of(corpus: Corpus) -> tuple[tuple[str, str, int], ...]:
    """(layer, scene id, number of samples it is in) of every scene in the corpus."""
    uses = Counter(
        (prefix, scene)
        for sample in corpus.samples()
        for prefix, layer in sample["layers"].items()
        for scene in layer["item_ids"]
    )
    return tuple((prefix, scene, number) for (prefix, scene), number in sorted(uses.items()))


def facts_of_environment(environments: Iterable[Json]) -> tuple[tuple[str, str], ...]:
    """What ran where: scalar facts of all runs together; where runs differ, every value is shown."""
    seen: dict[str, dict[str, None]] = {}
    for environment in environments:
        for name, value in flat(environment):
            seen.setdefault(name, {})[str(value)] = None
    return tuple((name, ", ".join(values)) for name, values in seen.items())


def flat(values: Json, depth: int = 0) -> list[tuple[str, Any]]:
    """The scalars of a nested mapping under their own key, two levels deep."""
    pairs: list[tuple[str, Any]] = []
    for name, value in values.items():
        if name in ("command", "started"):
            continue
        if isinstance(value, Mapping) and depth < 2:
            pairs += flat(value, depth + 1)
        elif isinstance(value, str | int | float) and len(str(value)) <= 120:
            pairs.append((name, value))
    return pairs


def stage_of(stage: Json) -> Stage:
    """A stage with its ids at Prefect and MLflow, and links where the trackers have an address."""
    trackers = tuple(
        (label, str(stage[f"{system}_run"]), str(stage.get(f"{system}_url") or ""))
        for system, label in (("prefect", "Prefect"), ("mlflow", "MLflow"))
        if stage.get(f"{system}_run")
    )
    seconds = stage.get("seconds")
    return Stage(
        str(stage["name"]), seconds if finite(seconds) else None, str(stage.get("state", "")), trackers
    )


def sentence(
    curation: Curation | None, runs: Sequence[Run], transfers: Sequence[Transfer], boards: int = 0
) -> str:
    """What was done, in one sentence with its numbers."""
    parts = []
    if curation:
        parts.append(
            f"{curation.accepted:,} of {curation.planned:,} planned chips became {count(len(curation.shards), 'shard')} "
            f"({size(curation.size_bytes)})"
        )
    steps = [run.curves["loss"][-1][0] for run in runs if run.curves.get("loss")]
    if steps:
        parts.append(f"{count(len(steps), 'encoder')} learned from them for {max(steps):,.0f} steps")
    for transfer in transfers:
        trained = len(transfer.runs)
        parts.append(f"{count(trained, 'run')} transferred to {transfer.task} ({transfer.setting})")
    if boards and not transfers:
        parts.append(f"{count(boards, 'board')} of scores")
    if not parts:
        return "Nothing has run yet."
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."
