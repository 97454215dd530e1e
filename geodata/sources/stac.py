"""Imagery that a STAC API or a static catalog lists, read from (cloud-optimized) GeoTIFFs.

`planetary_computer` and `earth_search` know the collections they are used for; `search` and `catalog` take any other,
given which asset is which band.

A search is no stable thing: items are processed anew, and leave. What a scene carries is therefore enough to find the
same pixels again: the item's id, its assets' addresses without any signature, and when the item was last changed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, TypedDict, Unpack

from geodata.sensors import sensor as sensor_called
from geodata.source import ImagerySource
from geodata.sources.geotiff import FileSource, Unit
from geodata.sources.stac_items import Api, Catalog, Items, Signer
from geodata.sources.stac_scenes import Offset, Product, StacSource

PLANETARY_COMPUTER = "https://planetarycomputer.microsoft.com/api/stac/v1"
PLANETARY_COMPUTER_TOKENS = "https://planetarycomputer.microsoft.com/api/sas/v1/token"
EARTH_SEARCH = "https://earth-search.aws.element84.com/v1"

_COPERNICUS = "Contains modified Copernicus Sentinel data"
_COPERNICUS_LICENSE = "Copernicus Sentinel data terms (free, full and open)"
_L2A = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
_COLOURS = (
    *("coastal", "blue", "green", "red", "rededge1", "rededge2", "rededge3"),
    *("nir", "nir08", "nir09", "swir16", "swir22"),
)


def _sentinel2(assets: Sequence[str], classification: str) -> Product:
    return Product(
        "sentinel2",
        dict(zip(_L2A, assets, strict=True)),
        classification,
        license=_COPERNICUS_LICENSE,
        attribution=_COPERNICUS,
        redistribute=True,
    )


PLANETARY_COMPUTER_PRODUCTS: Mapping[str, Product] = MappingProxyType(
    {
        "sentinel-2-l2a": _sentinel2(_L2A, "SCL"),
        "sentinel-1-rtc": Product(
            "sentinel1",
            {"VV": "vv", "VH": "vh"},
            unit="power",
            nodata=-32768.0,
            kind="gamma0_rtc",
            attribution=f"{_COPERNICUS}; terrain-corrected by Catalyst for Microsoft",
        ),
        "naip": Product(
            "optical",
            {"R": "image#1", "G": "image#2", "B": "image#3"},
            gsd=1.0,
            license="public domain",
            attribution="USDA Farm Production and Conservation Business Center, NAIP",
            redistribute=True,
        ),
    }
)
EARTH_SEARCH_PRODUCTS: Mapping[str, Product] = MappingProxyType(
    {
        "sentinel-2-l2a": _sentinel2(_COLOURS, "scl"),
        "sentinel-2-c1-l2a": _sentinel2(_COLOURS, "scl"),
    }
)


def planetary_computer(
    collection: str = "sentinel-2-l2a",
    *,
    sensor: str = "",
    bands: Sequence[str] = (),
    api: str = PLANETARY_COMPUTER,
    tokens: str = "",
) -> ImagerySource:
    """Microsoft's Planetary Computer: Sentinel-2 L2A, Sentinel-1 RTC (terrain-corrected gamma0) and NAIP.

    Assets are opened with tokens of its token service; `tokens`, or PC_SDK_SAS_URL in the environment, names another,
    and PC_SDK_SUBSCRIPTION_KEY holds a key, which Sentinel-1 RTC may need. `sensor` is another of the same assets
    (sentinel2_l2a: 12 bands), `bands` those to deliver. Sentinel-2's offset is in the files; it is removed here.
    Raises ValueError for a collection or band that is not there.
    """
    product = _known(collection, PLANETARY_COMPUTER_PRODUCTS, "planetary_computer")
    return opened(product, api, collection, tokens, sensor, bands)


def opened(
    product: Product, api: str, collection: str, tokens: str, sensor: str = "", bands: Sequence[str] = ()
) -> StacSource:
    """A collection whose assets need tokens; see `planetary_computer`."""
    service = tokens or os.environ.get("PC_SDK_SAS_URL") or PLANETARY_COMPUTER_TOKENS
    signer = Signer(service, os.environ.get("PC_SDK_SUBSCRIPTION_KEY", ""))
    return _source(product, Api.at(api, collection), sensor, bands, signer)


def earth_search(
    collection: str = "sentinel-2-l2a",
    *,
    sensor: str = "",
    bands: Sequence[str] = (),
    api: str = EARTH_SEARCH,
) -> ImagerySource:
    """Earth Search by Element 84: Sentinel-2 L2A, and its Collection 1, in public files that need no key.

    Whether the offset was removed is told by each item, and known to be wrong for some: dark pixels are checked after.
    Options and errors as for `planetary_computer`. Its radar and NAIP lie in buckets whose readers pay; they are not read.
    """
    product = _known(collection, EARTH_SEARCH_PRODUCTS, "earth_search")
    return _source(product, Api.at(api, collection), sensor, bands)


class Reading(TypedDict, total=False):
    """How the files of a collection are read: the fields of `Product`, whose `kind` is called `product` here."""

    classification: str
    unit: Unit
    nodata: float | None
    offset: Offset
    product: str
    gsd: float
    license: str
    attribution: str
    redistribute: bool | None


def search(
    api: str,
    collection: str,
    sensor: str,
    assets: Mapping[str, str],
    **reading: Unpack[Reading],
) -> ImagerySource:
    """Any STAC API with `POST /search`. `assets` says which asset is which band: {'B02': 'blue', 'R': 'image#1'}.

    The other options are those of `Product` (`product` is the radar's kind: gamma0_rtc or sigma0_grd). Raises
    ValueError for options that do not fit the sensor.
    """
    return _source(_described(sensor, assets, reading), Api.at(api, collection), "", tuple(assets))


def catalog(
    root: str,
    sensor: str,
    assets: Mapping[str, str],
    *,
    collection: str = "",
    **reading: Unpack[Reading],
) -> ImagerySource:
    """A static catalog: `root` is its catalog.json or collection.json, or a GeoJSON of items, here or on the web.

    `collection` keeps the items of one. Options and errors as for `search`. The catalog is read once, as a whole.
    """
    return _source(_described(sensor, assets, reading), Catalog(root, collection), "", tuple(assets))


def _described(sensor: str, assets: Mapping[str, str], reading: Reading) -> Product:
    fields: dict[str, Any] = dict(reading)
    return Product(sensor, assets, kind=fields.pop("product", ""), **fields)


def _known(collection: str, products: Mapping[str, Product], where: str) -> Product:
    if collection not in products:
        raise ValueError(
            f"{where} has no ready-made collection {collection!r} here, only {', '.join(products)}; "
            f"describe another with sources.stac.search"
        )
    return products[collection]


def _source(
    product: Product, items: Items, sensor: str, bands: Sequence[str], signer: Signer | None = None
) -> StacSource:
    own = sensor_called(sensor or product.sensor)
    if own.prefix != sensor_called(product.sensor).prefix:
        raise ValueError(f"the collection holds {product.sensor}, not {sensor}; choose the matching sensor")
    known = own.pick(tuple(bands))
    lacking = [band for band in known.band_names if band not in product.assets]
    if lacking:
        raise ValueError(
            f"no asset is named for {known.name} band {', '.join(lacking)}; name it in `assets`, or list `bands`"
        )
    if product.unit in ("dB", "power") and known.unit != "dB":
        raise ValueError(f"unit {product.unit!r} is for radar, but {known.name} is stored as {known.unit}")
    if known.kind == "radar" and not product.kind:
        raise ValueError("radar comes as gamma0_rtc or sigma0_grd and the two are never mixed; say `product`")
    if product.gsd:
        known = replace(known, gsd=product.gsd)
    files = FileSource(known, (), (), product.unit, product.nodata, {})
    return StacSource(known, product, items, files, signer)
