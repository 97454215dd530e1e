"""`swath`: a name and overrides, on the command line.

Every command resolves what it is asked for before it starts anything, so a misspelt key costs a second and says what
is valid. Results go to stdout, progress to stderr. An error is one sentence; `--debug` shows where it came from.
Exit status: 0 done (or nothing to do), 1 failed, 2 a request that cannot be met, 3 no network, 130 interrupted.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.progress import say
from pipelines.settings import Home, environment

if TYPE_CHECKING:
    from geodata.manifest import Corpus

__all__ = ["app", "main"]

FAILED, BAD_REQUEST, OFFLINE, INTERRUPTED = 1, 2, 3, 130

app = typer.Typer(
    name="swath",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
    help="""Foundation models for satellite images: curate a corpus, pretrain an encoder, transfer it, report.

A corpus, a recipe or a study is *a name and overrides*: `swath curate smoke seed=1`. What was made is called
`name@version` and lies under `--root` (default `./runs`). Every command can be given again: what is sealed is not
made twice, what was interrupted goes on.

Start here:

* `swath study smoke` the whole story on an invented Earth, offline

* `swath study demo` the same on real Sentinel-2 (4.7 MB over the network, once)

* `swath show smoke` what a name stands for, with every key that can be overridden
""",
)

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Changes to the settings; `swath show NAME` lists the keys."
    ),
]
Root = Annotated[Path, typer.Option("--root", help="Folder of all runs.", show_default=True)]
Version = Annotated[
    str, typer.Option("--version", help="Version of what is made; a name is never remade of other settings.")
]
Reuse = Annotated[
    bool, typer.Option("--reuse", help="Take what is sealed under that name, though made of other settings.")
]
Tracking = Annotated[
    str | None, typer.Option("--tracking", metavar="ADDRESS", help="MLflow store; default: ROOT/mlflow.db.")
]
CorpusOption = Annotated[
    str | None, typer.Option("--corpus", metavar="NAME@VERSION", help="Corpus in place of the recipe's own.")
]
Landcover = Annotated[
    str | None,
    typer.Option(
        "--landcover", metavar="PATH[:TABLE]", help="A raster to take the strata from; TABLE names its codes."
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        "--budget",
        metavar="KEY=NUMBER,...",
        help="Refuse what may go over it: chips, requests, bytes, moved, days, hours, eecu_hours, dollars.",
    ),
]
Workers = Annotated[int | None, typer.Option("--workers", help="CPUs of the local Ray; default all.")]
Gpu = Annotated[bool, typer.Option("--gpu", help="Train on CUDA devices.")]
RUNS = Path("runs")


@app.callback()
def _common(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error and the engines' own logs.")
    ] = False,
) -> None:
    _STATE["debug"] = debug
    if debug:
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "0")
    for name in ("geodata", "training", "pipelines"):
        logging.getLogger(name).handlers = [_handler(debug)]


_STATE = {"debug": False}


def _handler(debug: bool) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.INFO if debug else logging.WARNING)
    handler.setFormatter(logging.Formatter("swath: %(message)s"))
    return handler


# Looking before anything is made


@app.command()
def plan(
    name: str,
    overrides: Overrides = None,
    landcover: Landcover = None,
    pilot: Annotated[
        int,
        typer.Option("--pilot", metavar="N", min=0, help="Build N chips first, and measure what they take."),
    ] = 0,
    budget: Budget = None,
    cluster: Annotated[
        str | None,
        typer.Option("--cluster", metavar="KEY=VALUE,...", help="Machines and prices: nodes=8,vcpus=32 ..."),
    ] = None,
    root: Root = RUNS,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Threads that draw; default all CPUs.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="With `pretrain`: how many GPUs.")] = 1,
    memory: Annotated[
        str, typer.Option("--memory", help="With `pretrain`: memory of each, as in 80GB.")
    ] = "80GB",
) -> None:
    """What a corpus would take: points and shortfalls, requests, bytes, time and money, before anything is asked of anyone.

    Services are contacted only for a pilot, which is built into a folder that is removed again. Over a budget the
    exit status is 2.

    Examples: `swath plan smoke` · `swath plan rsrsd_5m --landcover cover.tif:esri_2020` ·
    `swath plan smoke --pilot 48 --budget days=2,dollars=100`

    `swath plan pretrain RECIPE` says what a recipe would take of each GPU and how long a step lasts, and what to change
    when it does not fit: `swath plan pretrain mae.vit_g12x4 --gpus 8 --memory 80GB`
    """
    if name == "pretrain":
        _plan_pretrain(list(overrides or ()), gpus, memory)
        return
    from pipelines import estimate

    found, limits = estimate.asked(
        name, overrides or (), landcover, pilot, cluster, budget, Home.at(root), workers
    )
    print(json.dumps(found.as_dict() | {"budget": limits}, indent=2) if as_json else estimate.render(found))
    estimate.held_to(found, limits)


def _plan_pretrain(words: Sequence[str], gpus: int, memory: str) -> None:
    from pipelines import engine

    if not words:
        raise ValueError("no recipe is named; give one, as in swath plan pretrain mae.vit_b12x1 --gpus 8")
    lines, rows, change = engine.planned(words[0], words[1:], gpus, memory)
    for line in lines:
        print(line)
    _table(["on each GPU", "GB"], rows)
    print("it fits" if change is None else f"it does not fit; change: {change}")


@app.command()
def show(name: str, overrides: Overrides = None, root: Root = RUNS) -> None:
    """The whole truth about a name, as JSON: a corpus, a recipe, something made (`name@version`), or a manifest.

    Examples: `swath show smoke` · `swath show mae.smoke steps=100` · `swath show smoke@1` · `swath show PATH/manifest.json`
    """
    from pipelines.shown import shown

    print(json.dumps(shown(name, list(overrides or ()), Home.at(root)), indent=2, default=str))


# Making


@app.command()
def curate(
    name: Annotated[
        str | None, typer.Argument(help="A corpus: smoke, demo, package.module.function, or a file.")
    ] = None,
    overrides: Overrides = None,
    root: Root = RUNS,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="MANIFEST",
            help="Build the corpus of a manifest again and compare every pixel hash.",
        ),
    ] = None,
    every: Annotated[
        str | None,
        typer.Option("--every", metavar="CRON", help="Stay, and curate whenever the cron expression says."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="NAME@VERSION",
            help="Go on from a corpus made before: ask only for what is new, as its next version.",
        ),
    ] = None,
    landcover: Landcover = None,
    budget: Budget = None,
    workers: Workers = None,
    reuse: Reuse = False,
    tracking: Tracking = None,
) -> None:
    """Build a corpus: plan, fetch, check, seal. Interrupt it and run it again; sealed shards are kept.

    Examples: `swath curate smoke` · `swath curate smoke version=2 quotas.count=200` ·
    `swath curate --from runs/corpora/smoke@1/manifest.json --root elsewhere` ·
    `swath curate smoke --since smoke@1 --every "0 2 * * *"`
    """
    home = _prepared(root, tracking)
    if source is not None:
        _regenerate(source, [text for text in (name, *(overrides or ())) if text], home, workers)
        return
    if name is None:
        raise ValueError("no corpus is named; give one (swath curate smoke) or --from MANIFEST")
    asked: dict[str, Any] = {"name": name, "overrides": list(overrides or ())}
    asked |= {"landcover": landcover, "since": since, "root": str(home.root), "workers": workers}
    asked |= {"budget": _checked(budget)}
    if every is not None:
        _scheduled(asked, home, every)
        return
    from pipelines import artifacts, corpora
    from pipelines import curate as flows

    wanted = corpora.wanted(corpora.spec_of(name, overrides or (), landcover), home)
    if since is not None:
        wanted = artifacts.resolve(home, flows.curate(**asked), "corpus")
    elif corpora.sealed(wanted, reuse=reuse) is None:
        flows.curate(**asked, reuse=reuse)
    else:
        say(f"corpus {wanted.address} is sealed; nothing to do")
    print(wanted.path)


def _checked(budget: str | None) -> str | None:
    """The same budget, once it can be read: a misspelt one costs a second rather than a corpus."""
    from geodata.costs import budget_of

    if budget:
        budget_of(budget)
    return budget


def _regenerate(manifest: Path, extra: Sequence[str], home: Home, workers: int | None) -> None:
    from geodata.manifest import open_corpus
    from pipelines import corpora
    from pipelines import curate as flows

    versions = [text.removeprefix("version=") for text in extra]
    if any(not text.startswith("version=") for text in extra) or len(versions) > 1:
        raise ValueError(
            f"a corpus is rebuilt as it was, so only version= can change, not {' '.join(extra)!r}"
        )
    first, spec = corpora.rebuild(manifest, home, version=versions[0] if versions else None)
    again = flows.regenerate(str(first.root / "manifest.json"), spec.version, str(home.root), workers)
    different = corpora.differences(first, open_corpus(again))
    hashes = len(first.pixel_hashes())
    if different:
        for line in different:
            print(line)
        raise RuntimeError(
            f"{len(different)} of {hashes} layers of {first.name}@{first.version} came out otherwise; they are listed above"
        )
    print(
        f"{spec.address}: all {hashes} layers of {first.rows} samples equal {first.name}@{first.version}, pixel for pixel"
    )


def _scheduled(asked: dict[str, Any], home: Home, cron: str) -> None:
    from pipelines.settings import local_prefect

    with local_prefect(home) as address:
        from pipelines import corpora
        from pipelines import curate as flows

        name = str(asked["name"])
        spec = corpora.spec_of(name, asked["overrides"], asked["landcover"])
        say(
            f"curating {spec.address} at {cron!r} (UTC); runs are listed at {address.removesuffix('/api')}; Ctrl-C ends it"
        )
        if Path(name).is_file():  # a deployment runs in a folder of its own
            asked = asked | {"name": str(Path(name).resolve())}
        flows.curate.serve(
            name=f"{spec.name}-schedule",
            cron=cron,
            parameters=asked | {"onward": True},
            limit=1,
            pause_on_shutdown=True,
        )


@app.command("import")
def import_(
    name: Annotated[str, typer.Argument(help="What the corpus is to be called, or a file with its spec.")],
    folder: Annotated[
        str | None, typer.Argument(help="Folder or zip of pictures; a file says so itself.")
    ] = None,
    overrides: Overrides = None,
    root: Root = RUNS,
    workers: Workers = None,
    reuse: Reuse = False,
    tracking: Tracking = None,
) -> None:
    """Take a folder or zip of pictures in as a corpus, labelled by its folders, by a table, or not at all.

    Examples: `swath import million_aid ~/Million-AID depth=3 license="research only"` ·
    `swath import eurosat ~/EuroSAT.zip labels=index index=index.csv split.kind=column license=MIT`
    """
    home = _prepared(root, tracking)
    from geodata import folders
    from pipelines import corpora, imports

    changes = (*imports.place(folder), *(overrides or ()))
    wanted = imports.wanted(folders.load(name, changes), home)
    if corpora.sealed(wanted, reuse=reuse) is None:
        imports.take_in(name, changes, str(home.root), workers, reuse)
    else:
        say(f"corpus {wanted.address} is sealed; nothing to do")
    print(wanted.path)


@app.command()
def prepare(
    name: Annotated[str, typer.Argument(help="A benchmark; of one divided in several ways, one of them.")],
    folder: Annotated[
        Path, typer.Option("--root", metavar="DIR", help="Where the data set lies, as it was published.")
    ],
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of all runs.", show_default=True)] = RUNS,
    workers: Workers = None,
    reuse: Reuse = False,
    tracking: Tracking = None,
) -> None:
    """Make the labelled corpus of a downstream benchmark, or list what its folder lacks.

    Examples: `swath prepare eurosat_rgb_500 --root ~/eurosat_rgb` · `swath prepare aid_tr20_0 --root ~/AID` ·
    `swath prepare potsdam --root ~/Potsdam --out /data/runs`
    """
    home = _prepared(out, tracking)
    from geodata import prepare as benchmarks
    from geodata.benchmarks import check
    from pipelines import corpora
    from pipelines import prepare as flows

    changes = tuple(overrides or ())
    spec = benchmarks.load(name, folder, changes)
    wanted = flows.wanted(spec, home)
    if corpora.sealed(wanted, reuse=reuse) is None:
        missing = check(spec.benchmark, folder.expanduser())
        for line in missing:
            print(line)
        if missing:
            raise RuntimeError(f"{name} cannot be prepared from {folder}: what it lacks is listed above")
        flows.make(name, str(folder), changes, str(home.root), workers, reuse)
    else:
        say(f"corpus {wanted.address} is sealed; nothing to do")
    print(wanted.path)


@app.command()
def join(
    name: Annotated[str, typer.Argument(help="What the corpus is to be called.")],
    corpora: Annotated[
        list[str], typer.Argument(metavar="CORPUS...", help="Sealed corpora: NAME@VERSION, or folders.")
    ],
    root: Root = RUNS,
    version: Version = "1",
    reuse: Reuse = False,
    tracking: Tracking = None,
) -> None:
    """Make one corpus of several that were curated alike: their shards under one manifest, nothing decoded again.

    Examples: `swath join samples terramesh@1 ssl4eo@1` · `swath join samples a@1 runs2/corpora/b@1 --version 2`
    """
    home = _prepared(root, tracking)
    from pipelines import corpora as sealed
    from pipelines import join as flows

    found = [str(_opened(text, home).root) for text in corpora]
    wanted = flows.wanted(name, found, home, version)
    if sealed.sealed(wanted, reuse=reuse) is None:
        flows.join(name, found, str(home.root), version, reuse)
    else:
        say(f"corpus {wanted.address} is sealed; nothing to do")
    print(wanted.path)


@app.command()
def retry(
    name: Annotated[str, typer.Argument(help="A sealed corpus: NAME@VERSION.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[version=V]")] = None,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="KEY=VALUE", help="Which refused chips; repeated, all must hold."),
    ] = None,
    root: Root = RUNS,
    workers: Workers = None,
    tracking: Tracking = None,
) -> None:
    """Ask again for refused chips of a sealed corpus, as its next version; accepted ones are taken over, not asked for.

    Keys are reason, stratum, region, shard and chip_id, as in dead_letters.parquet beside the manifest.
    Examples: `swath retry smoke@1 --where reason=unavailable` · `swath retry smoke@1 --where stratum=urban version=2`
    """
    home = _prepared(root, tracking)
    from pipelines import artifacts, refresh
    from pipelines import curate as flows

    version = refresh.version_in(overrides or ())
    refresh.retried(name, where or (), home, version)
    done = flows.retry(name, list(where or ()), str(home.root), version, workers)
    print(artifacts.resolve(home, done, "corpus").path)


@app.command()
def verify(
    name: str,
    root: Root = RUNS,
    source: Annotated[
        str | None,
        typer.Option("--source", metavar="SHARE", help="Also ask the sources again for a share: 1%, 0.01."),
    ] = None,
) -> None:
    """Recompute every checksum and pixel hash of a corpus; the exit status is not 0 when a single byte has changed.

    With `--source`, a share of the samples, always the same, is fetched again as well, and what has drifted is told.
    Examples: `swath verify smoke@1` · `swath verify runs/corpora/smoke@1/manifest.json` · `swath verify smoke@1 --source 1%`
    """
    from pipelines import corpora

    share = corpora.share_of(source) if source else 0.0
    corpus = _opened(name, Home.at(root))
    wrong = corpora.verify(corpus)
    for line in wrong:
        print(line)
    if wrong:
        raise RuntimeError(f"{corpus.name}@{corpus.version}: {len(wrong)} problems, listed above")
    print(
        f"{corpus.name}@{corpus.version}: {corpus.rows} samples in {len(corpus.records)} shards are as they were sealed"
    )
    if share:
        drift = corpora.drifted(corpus, share)
        for line in drift.lines:
            print(line)
        print(drift)
        if drift.found:
            raise RuntimeError(f"{corpus.name}@{corpus.version} has drifted at its sources, as listed above")


def _opened(name: str, home: Home) -> Corpus:
    from geodata.manifest import open_corpus
    from pipelines import artifacts

    return (
        open_corpus(name)
        if Path(name).exists()
        else open_corpus(artifacts.resolve(home, name, "corpus").path)
    )


@app.command()
def pretrain(
    name: Annotated[str, typer.Argument(help="A recipe: mae.smoke, package.module.function, or a file.")],
    overrides: Overrides = None,
    root: Root = RUNS,
    corpus: CorpusOption = None,
    version: Version = "1",
    workers: Annotated[int, typer.Option("--workers", help="Ray Train workers.")] = 1,
    gpu: Gpu = False,
    submit: Annotated[
        str | None,
        typer.Option(
            "--submit",
            metavar="ADDRESS",
            help="Run as a Ray job on the head at http://HOST:8265, and follow it.",
        ),
    ] = None,
    reuse: Reuse = False,
    tracking: Tracking = None,
) -> None:
    """Pretrain an encoder; killed and started again, it goes on bit for bit from its last checkpoint.

    Examples: `swath pretrain mae.smoke --corpus smoke@1` · `swath pretrain mae.smoke steps=100 --version 2` ·
    `swath pretrain mae.smoke --submit http://127.0.0.1:8265`
    """
    home = _prepared(root, tracking, cluster=submit is not None)
    from pipelines import artifacts
    from pipelines import pretrain as flows

    wanted = flows.request(name, tuple(overrides or ()), home, corpus=corpus, version=version)
    if artifacts.standing(wanted.artifact, reuse=reuse) is None:
        flows.pretrain(
            name, tuple(overrides or ()), str(home.root), corpus, version, workers, gpu, submit, reuse
        )
    else:
        say(f"encoder {wanted.artifact.address} is sealed; nothing to do")
    print(wanted.encoder)


@app.command()
def profile(
    name: Annotated[str, typer.Argument(help="A recipe: mae.smoke, package.module.function, or a file.")],
    overrides: Overrides = None,
    steps: Annotated[
        int, typer.Option("--steps", min=1, help="Steps to look at, after three of warming up.")
    ] = 10,
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", help="Where the files go.")] = Path("profile"),
    gpu: Gpu = False,
) -> None:
    """Where the time of a step goes: data, augment, forward, backward, optimizer, after_step, communication.

    Example: `swath profile mae.smoke streams.scenes.corpus=runs/corpora/smoke@1`
    """
    from pipelines import engine

    rows, files = engine.profiled(name, tuple(overrides or ()), to, steps, gpu=gpu)
    _table(["stage", "ms", "share"], rows)
    for path in files:
        print(path)


@app.command()
def transfer(
    encoder: Annotated[
        str,
        typer.Argument(
            metavar="ENCODER[,ENCODER]...", help="NAME@VERSION, a folder, or `random`; several by comma."
        ),
    ],
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="BENCHMARK_OR_PROTOCOL... [KEY=VALUE]...",
            help="A benchmark (all of its protocols), a protocol, or a fine-tuning recipe; then changes to settings.",
        ),
    ],
    labels: Annotated[
        str, typer.Option("--labels", metavar="SHARE,...", help="Parts of the training samples: 0.01,0.1,1.")
    ] = "1",
    root: Root = RUNS,
    corpus: CorpusOption = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", help="Runs per encoder; default: the paper's, 3 at least.")
    ] = None,
    version: Version = "1",
    gpu: Gpu = False,
    reuse: Reuse = False,
    tracking: Tracking = None,
) -> None:
    """Judge encoders by benchmarks: a task put on each, trained with several seeds, scored on samples never seen.

    Beside the scores stand baselines without an encoder; `swath report` puts the papers' own numbers beside them.
    Examples: `swath transfer mae.smoke@1,random finetune.segment_smoke` · `swath transfer random eurosat_rgb_500` ·
    `swath transfer pera@1,random pera_aid_tr20 --labels 0.01,0.1,1 --gpu`
    """
    home = _prepared(root, tracking)
    from pipelines import artifacts, trials
    from pipelines import transfer as flows

    starts, changes = tuple(encoder.split(",")), tuple(name for name in names if "=" in name)
    shares, asked = trials.shares(labels), [name for name in names if "=" not in name]
    settings: dict[str, Any] = {"overrides": changes, "seeds": seeds, "corpus": corpus, "version": version}
    wanted = [
        trials.comparison(name, starts, home, labels=shares, **settings) for name in trials.protocols(asked)
    ]
    for one in wanted:
        if artifacts.standing(one.artifact, reuse=reuse) is None:
            flows.transfer(
                one.recipe, starts, root=str(home.root), labels=shares, gpu=gpu, reuse=reuse, **settings
            )
        else:
            say(f"transfer {one.artifact.address} is sealed; nothing to do")
        _scores(flows.table(flows.read_scores(one.artifact)))
        print(one.artifact.path)


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run of a transfer.")],
    scenes: Annotated[list[Path], typer.Argument(metavar="SCENE [LATER]", help="One file, two for change.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="Where the map goes.")],
    bands: Annotated[
        str | None, typer.Option("--bands", metavar="NAME,...", help="The file's bands in order, if unnamed.")
    ] = None,
    unit: Annotated[
        str, typer.Option("--unit", help="What numbers mean: stored, reflectance, dB or power.")
    ] = "stored",
    offset: Annotated[
        str, typer.Option("--offset", help="`remove` takes Sentinel-2's 1,000 off again.")
    ] = "none",
    window: Annotated[
        int | None, typer.Option("--window", min=1, help="Pixels of a window; default as in training.")
    ] = None,
    stride: Annotated[
        int | None, typer.Option("--stride", min=1, help="Pixels from one window to the next.")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Windows at once.")] = 8,
    gpu: Gpu = False,
) -> None:
    """Draw the map of a scene with an encoder and its head, as a cloud-optimised GeoTIFF on exactly the scene's pixels.

    Example: `swath predict runs/transfers/finetune.segment_smoke@1/runs/random-seed0 scene.tif -o map.tif`
    """
    from pipelines import predict as mapping

    reading = mapping.reading(bands, unit, offset)
    settings: dict[str, Any] = {"window": window, "stride": stride, "batch": batch, "gpu": gpu}
    print(mapping.predict(run, scenes, out, reading=reading, **settings))


@app.command()
def study(
    name: Annotated[str, typer.Argument(help="`smoke` (offline) or `demo` (real Sentinel-2).")],
    root: Root = RUNS,
    workers: Workers = None,
    tracking: Tracking = None,
) -> None:
    """Curate, pretrain, transfer and report, each where it is not done yet; the second call does nothing.

    Examples: `swath study smoke` · `swath study demo --root /data/runs`
    """
    home = _prepared(root, tracking)
    from pipelines import study as flows
    from pipelines import transfer as scoring

    plot = flows.named(name)
    done = flows.finished(plot, home)
    if done is None:
        flows.study(name, str(home.root), workers)
        done = flows.finished(plot, home)
        if done is None:
            raise RuntimeError(f"study {name} ended without a record under {home.root}; run it again")
    else:
        say(f"study {done[0].address} is sealed; nothing to do")
    made, scores = done
    _scores(scoring.table(scoring.read_scores(scores)))
    print(f"report: {made.path / 'report.html'}")


@app.command()
def report(
    name: Annotated[
        str, typer.Argument(help="A study, corpus, encoder or transfer (NAME or NAME@VERSION), or a folder.")
    ],
    root: Root = RUNS,
) -> None:
    """Write report.html again from what lies on disk, also for something that was interrupted; of a corpus, its card.

    Examples: `swath report smoke` · `swath report smoke@1` · `swath report runs/encoders/mae.smoke@1`
    """
    from pipelines import artifacts
    from pipelines import report as pages

    home = Home.at(root)
    if Path(name).is_dir():
        folder = Path(name)
    else:
        studies = artifacts.find(home, name, "study")
        folder = studies[-1].path if studies else artifacts.resolve(home, name).path
    print(pages.write(folder))


@app.command()
def export(
    name: Annotated[str, typer.Argument(help="A corpus (NAME or NAME@VERSION), its folder or its manifest.")],
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="FOLDER", help="Where to; default: the corpus's own folder."),
    ] = None,
    form: Annotated[
        str, typer.Option("--format", help="geoparquet, stac, croissant or all.", metavar="FORMAT")
    ] = "all",
    skip_restricted: Annotated[
        bool, typer.Option("--skip-restricted", help="Leave out samples that may not be passed on.")
    ] = False,
    url: Annotated[
        str, typer.Option("--url", metavar="ADDRESS", help="Where the folder will be published.")
    ] = "",
    root: Root = RUNS,
) -> None:
    """Describe a corpus for other tools: a GeoParquet index, a STAC catalog, Croissant, and its card beside them.

    Examples: `swath export smoke@1` · `swath export rsrsd_100k@1 --to public --skip-restricted --format stac`
    """
    from pipelines import card

    for path in card.export(_opened(name, Home.at(root)), to, form, skip_restricted=skip_restricted, url=url):
        print(path)


# Beneath the commands


@app.command()
def stub(
    only: Annotated[
        str | None, typer.Option("--only", metavar="NAME", help="ee, stac or tiles; default all.")
    ] = None,
    port: Annotated[int, typer.Option("--port", help="Port on this machine; 0 takes a free one.")] = 8750,
    faults: Annotated[
        str,
        typer.Option("--faults", metavar="SCRIPT", help="none, full, expired, restricted, or a JSON file."),
    ] = "none",
    seed: Annotated[int, typer.Option("--seed", help="Seed of the synthetic Earth that they show.")] = 0,
) -> None:
    """Stand in for Earth Engine, STAC APIs and map tiles on this machine: no account, no network, faults on request.

    Examples: `swath stub` · `swath stub --only ee --faults full`
    """
    from pipelines import standins

    standins.keep_up(only, port, faults, seed)


def _prepared(root: Path, tracking: str | None, *, cluster: bool = False) -> Home:
    """The home, and the environment the engines will read; nothing of theirs is imported before this."""
    home = Home.at(root)
    if tracking:
        os.environ["MLFLOW_TRACKING_URI"] = tracking
    if not cluster:
        environment(home)
    else:  # a cluster has its own way of letting people in: RAY_AUTH_MODE and RAY_AUTH_TOKEN are the user's
        before = os.environ.get("RAY_AUTH_MODE"), os.environ.get("RAY_AUTH_TOKEN")
        environment(home)
        for key, value in zip(("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"), before, strict=True):
            if value is None:
                os.environ.pop(key, None)
    return home


def _scores(rows: Sequence[Mapping[str, str]]) -> None:
    if rows:
        _table(list(rows[0]), [tuple(row.values()) for row in rows])


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Columns, plain enough to be piped."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(head))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def main(argv: Sequence[str] | None = None) -> None:
    """The command `swath`."""
    _leave_in_order()
    try:
        status = app(args=list(argv) if argv is not None else None, standalone_mode=False)
    except Exception as error:
        if _STATE["debug"]:
            raise
        status = _explained(error)
        if status is None:
            raise
        sys.exit(status)
    if status:  # what the parser ends with by itself, as on Ctrl-C
        sys.exit(status)


def _leave_in_order() -> None:
    """SIGTERM becomes an exception, so that what was started here is also ended here."""

    def leave(number: int, _: FrameType | None) -> None:
        say("swath: stopped; the same command goes on from here")
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)


def _explained(error: Exception) -> int | None:
    """Say an expected error in one sentence and give the exit status; None for a bug, which should be seen whole."""
    from geodata.errors import DataError
    from pipelines.fetch import Offline

    if isinstance(error, typer.Abort):
        say("swath: interrupted; the same command goes on from here")
        return INTERRUPTED
    if hasattr(error, "show") and hasattr(error, "exit_code"):  # the parser's own complaints
        error.show()
        return int(error.exit_code)
    cause = _cause(error)
    kinds: tuple[tuple[Any, int], ...] = (
        (Offline, OFFLINE),
        (ValueError, BAD_REQUEST),
        ((DataError, OSError, RuntimeError), FAILED),
    )
    for kind, status in kinds:
        if isinstance(cause, kind):
            say(f"swath: {_sentence(cause)}")
            return status
    return None


def _cause(error: BaseException) -> BaseException:
    """What really happened, inside the envelopes that Ray puts around it."""
    inner = getattr(error, "cause", None)
    return _cause(inner) if isinstance(inner, BaseException) and inner is not error else error


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return (
            error.strerror if len(error.strerror) > 60 else f"{error.strerror}: {error.filename or 'a file'}"
        )
    return " ".join(str(error).split())


if __name__ == "__main__":
    main()
