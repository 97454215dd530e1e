"""Protocols: how papers put an encoder to a benchmark, each a recipe named after paper and data set.

A protocol says everything but the encoder: task and head, optimizer, schedule, views, layer decay, drop path, windows.
`load("gersp_eurosat")` finds one here by its bare name; the encoder it names is what the paper used and gives way to
whichever is judged. What the papers scored, and how often they trained, is in `pipelines/published.py`.
"""

from __future__ import annotations

from training.protocols.bfm import bfm_loveda, bfm_potsdam
from training.protocols.gersp import (
    gersp_eurosat,
    gersp_loveda_deeplabv3plus,
    gersp_loveda_psanet,
    gersp_resisc45,
)
from training.protocols.mtp import (
    mtp_cdd,
    mtp_eurosat,
    mtp_levir_cd,
    mtp_loveda,
    mtp_oscd,
    mtp_resisc45,
    mtp_spacenet1,
    mtp_whu,
)
from training.protocols.pera import (
    pera_aid_tr20,
    pera_levir_cd,
    pera_loveda,
    pera_potsdam,
    pera_ucm_tr50,
    pera_ucm_tr80,
)
from training.protocols.samples import (
    eurosat_rgb_500_finetune,
    eurosat_rgb_500_probe,
    kampala_buildings_19_finetune,
    kampala_buildings_20_finetune,
    kampala_buildings_21_finetune,
    levir_cd_samples_finetune,
    modis_sinop_finetune,
    slovenia_landcover_finetune,
    terramesh_landcover_chile_finetune,
    terramesh_landcover_denmark_finetune,
    terramesh_landcover_tanzania_finetune,
    worldcereal_crops_finetune,
)
from training.protocols.skysense import (
    skysense_aid_tr20,
    skysense_aid_tr50,
    skysense_bigearthnet_s2,
    skysense_dynamicearthnet_pla,
    skysense_dynamicearthnet_s2,
    skysense_fmow_s2,
    skysense_isaid,
    skysense_levir_cd,
    skysense_oscd,
    skysense_pastis,
    skysense_potsdam,
    skysense_resisc45_tr10,
    skysense_resisc45_tr20,
)

__all__ = [
    "bfm_loveda",
    "bfm_potsdam",
    "eurosat_rgb_500_finetune",
    "eurosat_rgb_500_probe",
    "gersp_eurosat",
    "gersp_loveda_deeplabv3plus",
    "gersp_loveda_psanet",
    "gersp_resisc45",
    "kampala_buildings_19_finetune",
    "kampala_buildings_20_finetune",
    "kampala_buildings_21_finetune",
    "levir_cd_samples_finetune",
    "modis_sinop_finetune",
    "mtp_cdd",
    "mtp_eurosat",
    "mtp_levir_cd",
    "mtp_loveda",
    "mtp_oscd",
    "mtp_resisc45",
    "mtp_spacenet1",
    "mtp_whu",
    "pera_aid_tr20",
    "pera_levir_cd",
    "pera_loveda",
    "pera_potsdam",
    "pera_ucm_tr50",
    "pera_ucm_tr80",
    "skysense_aid_tr20",
    "skysense_aid_tr50",
    "skysense_bigearthnet_s2",
    "skysense_dynamicearthnet_pla",
    "skysense_dynamicearthnet_s2",
    "skysense_fmow_s2",
    "skysense_isaid",
    "skysense_levir_cd",
    "skysense_oscd",
    "skysense_pastis",
    "skysense_potsdam",
    "skysense_resisc45_tr10",
    "skysense_resisc45_tr20",
    "slovenia_landcover_finetune",
    "terramesh_landcover_chile_finetune",
    "terramesh_landcover_denmark_finetune",
    "terramesh_landcover_tanzania_finetune",
    "worldcereal_crops_finetune",
]
