"""What a name stands for: settings with every key that can be overridden, or what was made and of what."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geodata.manifest import Corpus
    from pipelines.settings import Home

__all__ = ["shown"]


def shown(name: str, overrides: list[str], home: Home) -> Any:
    """A corpus, a recipe, what was made (`name@version`) or a manifest, as plain values. Raises ValueError for none."""
    from pipelines import artifacts

    if Path(name).name == "manifest.json" or (Path(name) / "manifest.json").exists():
        return _manifest(Path(name))
    found = artifacts.find(home, name) if "@" in name else []
    if found:
        return [_record(artifact) for artifact in found]
    if "@" in name:
        artifacts.resolve(home, name)
    from geodata import corpus
    from pipelines.corpora import spec_of

    if name in corpus.specs():
        return json.loads(spec_of(name, overrides).model_dump_json())
    return _spec_or_recipe(name, overrides)


def _spec_or_recipe(name: str, overrides: list[str]) -> Any:
    """A recipe by name, else a corpus of the user's own; the complaint names both kinds."""
    from geodata.corpus import load_spec, specs
    from pipelines.published import PROTOCOLS
    from training import budget, recipe

    try:
        found = recipe.load(name, overrides)
        told = {"protocol": asdict(PROTOCOLS[name])} if name in PROTOCOLS else {}
        return json.loads(found.dump()) | {"parameters": budget.counts(found)} | told
    except ValueError as not_recipe:
        try:
            return json.loads(load_spec(name, overrides).model_dump_json())
        except ValueError as not_corpus:
            if "." in name:
                raise not_recipe from None
            raise ValueError(
                f"{name!r} is neither a corpus ({', '.join(specs())}) nor a recipe (METHOD.RECIPE, as in mae.smoke, "
                "or a protocol, as in gersp_eurosat) nor made yet (NAME@VERSION)"
            ) from not_corpus


def _manifest(path: Path) -> Any:
    from geodata.manifest import open_corpus

    corpus = open_corpus(path)
    return _summary(corpus) | {"spec": corpus.spec}


def _summary(corpus: Corpus) -> dict[str, Any]:
    return {
        "corpus": f"{corpus.name}@{corpus.version}",
        "fingerprint": corpus.fingerprint,
        "planned": corpus.planned,
        "accepted": corpus.rows,
        "rejected": corpus.rejected,
        "shards": len(corpus.records),
        "bytes": corpus.bytes,
        "counts": {key: corpus.counts().get(key, {}) for key in ("split", "stratum", "continent")},
    }


def _record(artifact: Any) -> dict[str, Any]:
    from geodata.manifest import open_corpus
    from pipelines import artifacts

    values: dict[str, Any] = json.loads(artifact.to_json())
    if artifact.kind == "corpus":
        values["manifest"] = _summary(open_corpus(artifact.path))
    if artifact.kind == "transfer":
        values["scores"] = json.loads((artifact.path / "scores.json").read_bytes())
    return values | {"made": artifacts.read_stage(artifact)}
