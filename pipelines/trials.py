"""What a transfer is to run: protocols, starts, seeds and shares of the labels, resolved before anything starts.

Apart from the flow, so that asking imports no engine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geodata import benchmarks
from geodata.manifest import Corpus, open_corpus
from pipelines import artifacts
from pipelines.artifacts import Artifact
from pipelines.published import PROTOCOLS
from pipelines.settings import Home
from training import recipe as recipes

__all__ = ["RANDOM", "Trial", "Trials", "comparison", "protocols", "shares"]

RANDOM = "random"
SEEDS = 3
SENSORS = ("hr", "s2", "s1")
"""Where the spec of an encoder of several sensors says what each of them is."""


@dataclass(frozen=True)
class Trial:
    """One run of a transfer: where its encoder starts (`arm`), its seed, its share of the labels, and its folder."""

    arm: str
    seed: int
    recipe: recipes.Recipe
    folder: Path
    share: float = 1.0

    @property
    def scored(self) -> bool:
        """Whether nothing is left to do."""
        return (self.folder / "scores.json").is_file()


@dataclass(frozen=True)
class Trials:
    """A transfer, resolved: the recipe as it was named, its runs, the artifact they make together, and the overrides."""

    recipe: str
    trials: tuple[Trial, ...]
    artifact: Artifact
    changed: tuple[str, ...] = ()

    @property
    def corpus(self) -> Corpus:
        """The labelled samples of the first seed."""
        return open_corpus(self.trials[0].recipe.streams["labelled"].corpus)


def protocols(names: Sequence[str]) -> tuple[str, ...]:
    """The recipes that names stand for: a protocol, a recipe's address or file; a benchmark stands for all of its own.

    Raises ValueError, listing what there is, for a name of neither.
    """
    found: list[str] = []
    for name in names:
        ours = _protocols_of(name)
        if ours:
            found += ours
            continue
        try:
            recipes.load(name)
        except ValueError as error:
            if "." in name:
                raise
            raise ValueError(
                f"{name!r} is neither a protocol nor a benchmark; benchmarks are {', '.join(benchmarks.modules())}, "
                f"protocols {', '.join(recipes.protocols())}"
            ) from error
        found.append(name)
    return tuple(dict.fromkeys(found))


def _protocols_of(name: str) -> list[str]:
    """The protocols that the benchmark of that name serves, or any of its data set."""
    if name in recipes.protocols():
        return []
    ways = [one for one in benchmarks.names() if name in (one, _dataset(one))]
    served = [one for way in ways for one in benchmarks.find(way).protocols]
    return [one for one in dict.fromkeys(served) if one in recipes.protocols()]


def _dataset(benchmark: str) -> str:
    """The data set that a benchmark's name begins with."""
    found = [one for one in benchmarks.modules() if benchmark == one or benchmark.startswith(f"{one}_")]
    return max(found, key=len, default="")


def shares(text: str) -> tuple[float, ...]:
    """Shares of the labels as given on the command line: 0.01,0.1,1. Raises ValueError for one not within 0 and 1."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = (0.0,)
    if any(not 0 < share <= 1 for share in found):
        raise ValueError(
            f"--labels takes shares above 0 and up to 1, not {text!r}; as in 0.01,0.05,0.1,0.5,1"
        )
    return tuple(dict.fromkeys(found))


def comparison(
    name: str,
    encoders: Sequence[str],
    home: Home,
    *,
    overrides: Sequence[str] = (),
    seeds: int | None = None,
    corpus: str | None = None,
    version: str = "1",
    labels: Sequence[float] = (1.0,),
) -> Trials:
    """Resolve a transfer: recipe NAME from each encoder (`name@version`, a folder, or `random`) with seeds 0 to n - 1.

    Without a number of seeds the paper's is taken, three at least; an encoder that is fitted without steps is run once on
    the same samples, since nothing about it is random. Raises ValueError for anything that is not there,
    before anything starts.
    """
    known = PROTOCOLS.get(name)
    count = max(SEEDS, known.repeats if known else SEEDS) if seeds is None else seeds
    if count < 1 or not encoders:
        raise ValueError(
            f"a transfer needs an encoder and a seed, not {len(encoders)} and {count}; name `random` at least"
        )
    first = recipes.load(name, overrides)
    asked = first.streams["labelled"]
    sources = {encoder: _encoder(encoder, home) for encoder in dict.fromkeys(encoders)}
    places = [_division(corpus or asked.corpus, seed, home) for seed in range(count)]
    starts = {encoder: _start(encoder, sources) for encoder in sources}
    for encoder, source in sources.items():
        if source is not None and _weights(source).is_dir():
            _reads(encoder, _network(_weights(source)), first.method, asked.layers)
    title = Path(name).stem if name.endswith((".json", ".yaml", ".yml")) else name
    place = home.place("transfer", title, version)
    trials = []
    for share in labels:
        for encoder, changes in starts.items():
            for seed, root in enumerate(places):
                if not first.steps and sources[encoder] is not None and root in places[:seed]:
                    continue  # fitted at once on the same samples: nothing is random
                chosen = [*overrides, f"streams.labelled.corpus={root}", *changes, f"seed={seed}"]
                chosen += [f"streams.labelled.share={share}"] if share != 1 else []
                part = "" if share == 1 else f"-labels{share:g}"
                folder = place / "runs" / f"{artifacts.slug(encoder)}{part}-seed{seed}"
                trials.append(Trial(_arm(encoder), seed, recipes.load(name, chosen), folder, share))
    made = _artifact(title, version, place, trials, sources)
    return Trials(name, tuple(trials), made, tuple(overrides))


def _artifact(
    title: str,
    version: str,
    place: Path,
    trials: Sequence[Trial],
    sources: Mapping[str, Artifact | Path | None],
) -> Artifact:
    read = [open_corpus(root) for root in sorted({one.recipe.streams["labelled"].corpus for one in trials})]
    parents = [f"corpus:{made.name}@{made.version}#{made.fingerprint}" for made in read]
    parents += [source.parent for source in sources.values() if isinstance(source, Artifact)]
    digests = [trial.recipe.model_copy(update={"name": ""}).digest for trial in trials]
    fingerprint = artifacts.digest(digests, list(sources), sorted(parents))
    return Artifact(title, version, "transfer", place, fingerprint, tuple(sorted(parents)))


def _division(text: str, seed: int, home: Home) -> Path:
    """The corpus of a seed: of a benchmark divided several times (aid_tr20_0, aid_tr20_1, pastis_run1 ...) its own
    where that is prepared, else the one named."""
    divided = re.fullmatch(r"(.+?)(\d+)(@.+)?", Path(text).name)
    if seed and divided is not None and not Path(text).exists():
        stem, first, version = divided[1], int(divided[2]), divided[3] or ""
        if _alike(f"{stem}{first}", f"{stem}{first + seed}"):
            own = artifacts.find(home, f"{stem}{first + seed}{version}", "corpus")
            if own:
                return own[-1].path
    return _corpus(text, home)


def _alike(one: str, other: str) -> bool:
    """Whether two benchmarks are divisions of one data set, scored by the same protocols."""
    if not {one, other} <= set(benchmarks.names()):
        return False
    served = [set(benchmarks.find(name).protocols) for name in (one, other)]
    return bool(served[0]) and served[0] == served[1] and _dataset(one) == _dataset(other)


def _corpus(text: str, home: Home) -> Path:
    if Path(text).exists():
        return open_corpus(text).root
    name = Path(text).name
    found = artifacts.find(home, name, "corpus")
    bare = name.partition("@")[0]
    if not found and bare in benchmarks.names():
        raise ValueError(
            f"benchmark {bare} is not prepared under {home.root}; run `swath prepare {bare} --root DIR` with the folder "
            "the data set lies in"
        )
    return artifacts.resolve(home, name, "corpus").path


def _encoder(text: str, home: Home) -> Artifact | Path | None:
    if text == RANDOM:
        return None
    folder = Path(text).resolve()
    if folder.is_file() or (folder / "config.json").is_file():
        return folder
    return artifacts.resolve(home, text, "encoder")


def _start(encoder: str, sources: Mapping[str, Artifact | Path | None]) -> tuple[str, ...]:
    """The settings with which a start begins. `random` is the network of the first encoder that says what it is."""
    source = sources[encoder]
    if source is not None:
        place = _weights(source)
        if place.is_file():  # bare weights are those of the network that the recipe names
            return (f"method.init={place}",)
        return (f"method.init={place}", "method.encoder=null")
    named = [_weights(one) for one in sources.values() if one is not None]
    first = next((place for place in named if place.is_dir()), None)
    if first is None:
        return ()
    network = _network(first)
    for inputs in _inputs(network):
        inputs |= {"mean": [], "std": []}  # chance knows no statistics but those of these samples
    return (f"method.encoder={json.dumps(network)}",)


def _weights(source: Artifact | Path) -> Path:
    return source.path / "encoder" if isinstance(source, Artifact) else source


def _network(place: Path) -> dict[str, Any]:
    """The spec of an exported encoder."""
    spec: dict[str, Any] = json.loads((place / "config.json").read_bytes())["spec"]
    return spec


def _inputs(network: dict[str, Any]) -> list[dict[str, Any]]:
    """What an encoder's spec reads: its own pixels, and those of each of several sensors."""
    parts = [network[name] for name in SENSORS if isinstance(network.get(name), dict)]
    return [part["inputs"] for part in [network, *parts]]


def _reads(encoder: str, network: dict[str, Any], method: Any, layers: Sequence[str]) -> None:
    """Refuse an encoder that reads a layer which the protocol neither feeds nor has read in place of it."""
    if getattr(method, "inputs", None) is not None:
        return
    sensors = {name: network[name]["inputs"] for name in SENSORS if isinstance(network.get(name), dict)}
    chosen = getattr(method, "parts", ()) or sensors
    instead = getattr(method, "reads", None)
    wanted = [one for name, one in sensors.items() if name in chosen and getattr(instead, name, None) is None]
    for one in wanted if sensors else [network["inputs"]]:
        if one["layer"] not in layers:
            raise ValueError(
                f"encoder {encoder} reads layer {one['layer']!r}, the protocol feeds {', '.join(layers)}: choose an "
                "encoder of these images, or another protocol"
            )


def _arm(encoder: str) -> str:
    return (
        RANDOM
        if encoder == RANDOM
        else f"pretrained ({encoder if '/' not in encoder else Path(encoder).name})"
    )
