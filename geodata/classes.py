"""What the codes of land-cover maps mean, as tables, and the strata that quotas are written in.

A map keeps its own codes; a `ClassTable` says what each means and which stratum it belongs to, in one place, so that
quotas speak strata and never codes. Two systems of ESRI codes circulate (ten classes for 2020; nine for the yearly
series, where 3 and 6 are unused and 11 is rangeland), and files in which the nine were renumbered are a third: so a
map that shows a code outside its table is refused instead of being guessed at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geodata.sensors import LANDCOVER

Codes = NDArray[np.uint8]

STRATA = (
    "urban",
    "farmland",
    "wetland",
    "forest",
    "watershed",
    "grassland",
    "desert",
    "ice",
    "cloud",
    "shrub",
)
"""The words that quotas are written in. 'desert' is bare ground, rock and quarries included."""

NO_CLASS = LANDCOVER.nodata
"""The code of ground that the map says nothing about: 255."""


@dataclass(frozen=True)
class ClassTable:
    """What the codes of a map mean: `codes` to names, `strata` from code to stratum (a code may have none).

    `words` are the names by which a vector file calls the same classes, several to a code. Raises ValueError for a
    code outside 0 to 254, a stratum that is no stratum, or a word or stratum of a code the table lacks.
    """

    name: str
    codes: Mapping[int, str]
    strata: Mapping[int, str]
    words: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for code in self.codes:
            if not 0 <= code < NO_CLASS:
                raise ValueError(
                    f"{self.name}: code {code} is outside 0 to 254 (255 means no class); renumber it"
                )
        for key, code in [*((code, code) for code in self.strata), *self.words.items()]:
            if code not in self.codes:
                raise ValueError(
                    f"{self.name}: {key!r} stands for code {code}, which has no name; add it to codes"
                )
        for stratum in self.strata.values():
            if stratum not in STRATA:
                raise ValueError(f"{self.name}: {stratum!r} is no stratum; strata are {', '.join(STRATA)}")

    def strata_of(self, codes: Codes) -> NDArray[np.int8]:
        """Index into `STRATA` of each code, -1 where it has none (or is 255)."""
        lookup = np.full(256, -1, np.int8)
        for code, stratum in self.strata.items():
            lookup[code] = STRATA.index(stratum)
        return lookup[codes]

    def check(self, codes: NDArray[Any], where: str) -> None:
        """Raise ValueError when a code, other than 255, is not in the table."""
        strange = sorted({int(code) for code in np.unique(codes)} - {*self.codes, NO_CLASS})
        if strange:
            raise ValueError(
                f"{where} holds code {', '.join(map(str, strange[:8]))}, but table {self.name} has only "
                f"{', '.join(map(str, sorted(self.codes)))}; choose the map's own table, or name its nodata value"
            )


def _table(
    name: str, *rows: tuple[int, str, str | None], words: Mapping[str, int] | None = None
) -> ClassTable:
    """A table from rows of code, name and stratum."""
    strata = {code: stratum for code, _, stratum in rows if stratum}
    return ClassTable(name, {code: meaning for code, meaning, _ in rows}, strata, words or {})


ESRI_2020 = _table(
    "esri_2020",
    (1, "water", "watershed"),
    (2, "trees", "forest"),
    (3, "grass", "grassland"),
    (4, "flooded vegetation", "wetland"),
    (5, "crops", "farmland"),
    (6, "scrub", "shrub"),
    (7, "built", "urban"),
    (8, "bare ground", "desert"),
    (9, "snow or ice", "ice"),
    (10, "clouds", "cloud"),
)
"""The ten classes of the 2020 map (Karra et al. 2021)."""

ESRI_SERIES = _table(
    "esri_series",
    (1, "water", "watershed"),
    (2, "trees", "forest"),
    (4, "flooded vegetation", "wetland"),
    (5, "crops", "farmland"),
    (7, "built", "urban"),
    (8, "bare ground", "desert"),
    (9, "snow or ice", "ice"),
    (10, "clouds", "cloud"),
    (11, "rangeland", "grassland"),
)
"""The nine raw codes of the yearly series; rangeland merges grass and scrub, so its 'grassland' holds both."""

ESRI_NINE = _table(
    "esri_nine",
    (1, "water", "watershed"),
    (2, "trees", "forest"),
    (3, "flooded vegetation", "wetland"),
    (4, "crops", "farmland"),
    (5, "built", "urban"),
    (6, "bare ground", "desert"),
    (7, "snow or ice", "ice"),
    (8, "clouds", "cloud"),
    (9, "rangeland", "grassland"),
)
"""The nine classes of the yearly series renumbered 1 to 9, as in TerraMesh and many scripts: its 3, 5 and 7 are other
classes than those of the raw codes, which is why no table of these is ever assumed."""

WORLDCOVER = _table(
    "worldcover",
    (10, "tree cover", "forest"),
    (20, "shrubland", "shrub"),
    (30, "grassland", "grassland"),
    (40, "cropland", "farmland"),
    (50, "built-up", "urban"),
    (60, "bare or sparse vegetation", "desert"),
    (70, "snow and ice", "ice"),
    (80, "permanent water", "watershed"),
    (90, "herbaceous wetland", "wetland"),
    (95, "mangroves", "wetland"),
    (100, "moss and lichen", None),
)
"""ESA WorldCover 2020 and 2021; moss and lichen belong to no stratum."""

DYNAMIC_WORLD = _table(
    "dynamic_world",
    (0, "water", "watershed"),
    (1, "trees", "forest"),
    (2, "grass", "grassland"),
    (3, "flooded vegetation", "wetland"),
    (4, "crops", "farmland"),
    (5, "shrub and scrub", "shrub"),
    (6, "built", "urban"),
    (7, "bare", "desert"),
    (8, "snow and ice", "ice"),
)
"""Google Dynamic World's `label` band; it masks clouds, so there is no cloud class."""

GLCNMO_2008 = _table(
    "glcnmo_2008",
    (1, "broadleaf evergreen forest", "forest"),
    (2, "broadleaf deciduous forest", "forest"),
    (3, "needleleaf evergreen forest", "forest"),
    (4, "needleleaf deciduous forest", "forest"),
    (5, "mixed forest", "forest"),
    (6, "tree open", "forest"),
    (7, "shrub", "shrub"),
    (8, "herbaceous", "grassland"),
    (9, "herbaceous with sparse tree or shrub", "grassland"),
    (10, "sparse vegetation", "desert"),
    (11, "cropland", "farmland"),
    (12, "paddy field", "farmland"),
    (13, "cropland and other vegetation mosaic", "farmland"),
    (14, "mangrove", "wetland"),
    (15, "wetland", "wetland"),
    (16, "bare area, consolidated (gravel, rock)", "desert"),
    (17, "bare area, unconsolidated (sand)", "desert"),
    (18, "urban", "urban"),
    (19, "snow or ice", "ice"),
    (20, "water bodies", "watershed"),
)
"""GLCNMO 2008 (Tateishi et al. 2014), the twenty classes of the world.

Open and mixed stands are forest; mosaics that are mainly crops are farmland; sparse vegetation joins the bare areas, as
in GLCNMO's own eight groups and in ESRI's bare ground; mangroves are wetland. The sea is water like any lake, and there
is no cloud class.
"""

NLCD_GROUPS = _table(
    "nlcd_groups",
    (1, "water", "watershed"),
    (2, "developed", "urban"),
    (3, "barren", "desert"),
    (4, "forest", "forest"),
    (5, "shrubland", "shrub"),
    (6, "herbaceous", "grassland"),
    (7, "planted or cultivated", "farmland"),
    (8, "wetlands", "wetland"),
)
"""The eight groups of the US National Land Cover Database, its codes' first digits renumbered in order; perennial ice is
among its water."""

_OSM_WORDS = {
    0: (
        "residential",
        "commercial",
        "industrial",
        "retail",
    ),
    1: (
        "farm",
        "farmland",
        "orchard",
        "vineyard",
    ),
    2: (
        "meadow",
        "grass",
    ),
    3: ("forest",),
    4: (
        "scrub",
        "heath",
    ),
    5: ("wetland",),
    6: (
        "water",
        "reservoir",
        "river",
        "riverbank",
        "dock",
    ),
}
OSM_LANDUSE = _table(
    "osm_landuse",
    (0, "built", "urban"),
    (1, "farmland", "farmland"),
    (2, "grassland", "grassland"),
    (3, "forest", "forest"),
    (4, "scrub", "shrub"),
    (5, "wetland", "wetland"),
    (6, "water", "watershed"),
    words={word: code for code, words in _OSM_WORDS.items() for word in words},
)
"""OpenStreetMap land use by the `fclass` words of common regional extracts, in seven consecutive codes.

Meadow and grass are one class: ten polygons of mown grass in the demo scene could be learned by nobody. Parks, nature
reserves and the like are missing on purpose: they say who owns the ground, not what grows on it.
"""

TABLES = (
    ESRI_2020,
    ESRI_SERIES,
    ESRI_NINE,
    WORLDCOVER,
    DYNAMIC_WORLD,
    GLCNMO_2008,
    NLCD_GROUPS,
    OSM_LANDUSE,
)


def class_table(name: str) -> ClassTable:
    """A table by its name. Raises ValueError with the names there are."""
    for known in TABLES:
        if known.name == name:
            return known
    raise ValueError(
        f"no class table is called {name!r}; known are {', '.join(table.name for table in TABLES)}"
    )


def told_by(codes: Iterable[int]) -> list[ClassTable]:
    """The tables whose codes are exactly these, unless any map might have them.

    Codes that only count from 0 or 1, fewer than sixteen of them, say nothing: a dozen systems do that.
    """
    found = sorted(set(codes) - {NO_CLASS})
    counting = found in (list(range(len(found))), list(range(1, len(found) + 1))) and len(found) < 16
    return [] if counting else [table for table in TABLES if sorted(table.codes) == found]
