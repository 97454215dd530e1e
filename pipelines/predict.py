"""A map from a finished run: windows over a scene, in bounded memory, on exactly the scene's pixels.

The pieces are elsewhere: `geodata.maps` reads scenes and writes maps, `training.mapping` asks the network; here they
are joined, row of windows by row of windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast, get_args

from geodata.maps import Conventions, Offset, mapped, opened
from geodata.radiometry import Unit
from pipelines.progress import bar

__all__ = ["predict", "reading"]


def predict(
    run: Path,
    scenes: Sequence[Path],
    out: Path,
    *,
    reading: Conventions | None = None,
    window: int | None = None,
    stride: int | None = None,
    batch: int = 8,
    gpu: bool = False,
) -> Path:
    """Write the map of a scene, of two dates of it for a run of change; `run` holds recipe.json and checkpoints.

    Where the scene has no data the map has none. Raises Missing for a run or a file that is not there, ValueError where
    run and scene do not fit together.
    """
    from training.mapping import Mapper

    mapper = Mapper(_run(run), "cuda" if gpu else "cpu")
    if len(scenes) != mapper.dates:
        raise ValueError(
            f"{len(scenes)} scenes are given and the run {run} looks at {mapper.dates}; give one for classes of ground, "
            "two of the same ground, the earlier first, for change"
        )
    size, step = mapper.window(window, stride)
    tags = {
        "run": "/".join(run.resolve().parts[-3:]),
        "recipe": mapper.recipe.name,
        "digest": mapper.recipe.digest,
    }
    tags |= {"scenes": ", ".join(path.name for path in scenes), "window": f"{size} every {step}"}
    with opened(scenes, mapper.inputs.layer, mapper.inputs.bands, reading) as scene:
        height, width = scene.shape
        with mapped(out, scene, mapper.classes, tags) as put, bar("predict", height, "rows") as line:
            line.at(0)
            for top, values in mapper.rows(scene.strip, height, width, size, step, batch):
                put(top, values)
                line.at(top + len(values))
    return out


def reading(bands: str | None, unit: str, offset: str) -> Conventions:
    """How a file is to be read, from words of the command line. Raises ValueError for one that is not known."""
    for name, word, known in (("unit", unit, get_args(Unit)), ("offset", offset, get_args(Offset))):
        if word not in known:
            raise ValueError(f"--{name} {word} is not known; choose {', '.join(known)}")
    named = tuple(name.strip() for name in bands.split(",")) if bands else ()
    return Conventions(named, cast(Unit, unit), cast(Offset, offset))


def _run(folder: Path) -> Path:
    """The folder of one run; a sealed transfer holds several, of which one has to be named."""
    runs = sorted(path.parent.name for path in folder.glob("runs/*/recipe.json"))
    if runs and not (folder / "recipe.json").is_file():
        raise ValueError(
            f"{folder} holds {len(runs)} runs; name one of them, as in {folder / 'runs' / runs[0]}"
        )
    return folder
