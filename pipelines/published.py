"""What papers say they scored, and by which rules.

A number belongs to a protocol: a paper's way of scoring one data set, whose training half is the recipe of the same
name in `training/protocols`. The printed scores, in percent, are rows of `published.csv` beside this file. What is
known to make numbers incomparable stands here as a warning, because a table that puts them side by side without a word
is how some rankings came about.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from functools import cache
from importlib import resources

__all__ = ["PROTOCOLS", "Protocol", "Published", "numbers"]


@dataclass(frozen=True)
class Protocol:
    """How a paper scores a data set: the samples that count, the score it prints, and how often it trains.

    `ours` are keys of the recipe whose values no paper and no published configuration states: our choice.
    """

    paper: str
    dataset: str
    metric: str  # as `training.metrics` calls it
    scored_on: str
    repeats: int = 1
    warnings: tuple[str, ...] = ()
    ours: tuple[str, ...] = ()


@dataclass(frozen=True)
class Published:
    """One printed score in percent. `share` is the part of the training samples that was used."""

    method: str
    metric: str
    value: float
    spread: float | None
    share: float
    note: str


@cache
def numbers(protocol: str) -> tuple[Published, ...]:
    """Every printed score of a protocol, in the order of its papers' tables; none for a protocol of our own."""
    text = (resources.files("pipelines") / "published.csv").read_text(encoding="utf-8")
    return tuple(
        Published(
            row["method"],
            row["metric"],
            float(row["value"]),
            float(row["spread"]) if row["spread"] else None,
            float(row["share"]),
            row["note"],
        )
        for row in csv.DictReader(io.StringIO(text))
        if row["protocol"] == protocol
    )


BFM = "A Billion-scale Foundation Model for Remote Sensing Images"
GERSP = "Generic Knowledge Boosted Pre-training for Remote Sensing Images (GeRSP)"
PERA = "A Contrastive Learning Foundation Model Based on Perfectly Aligned Sample Pairs (PerA)"
SKYSENSE = "SkySense"
MTP = "MTP: Advancing Remote Sensing Foundation Model via Multi-Task Pretraining"

SERVER = "the paper is scored on the hidden test set by a server; ours on the validation set, whose labels are public"
UNSTATED = "the paper leaves its training settings to a supplement; the recipe's are those of its released configurations"
TRAINING = ("optim", "schedule", "batch", "steps", "method.views", "method.drop_path")
"""What SkySense leaves to its supplement, and no released configuration says."""
WINDOWED = (*TRAINING, "method.window")
FUSED = ("optim", "schedule", "batch", "steps", "method.views", "method.window")
LABELS = (
    "label rasters come with whole and with eroded boundaries, which changes F1 by points; papers seldom say which, "
    "ours are whole"
)
ISAID = (
    "background is one of the 16 classes of the mean, as in the RVSA lineage; means of the 15 objects are about 2 points "
    "lower"
)
ONE_RUN = "one training run, last epoch: no spread is known"
LEVIR = "tiles differ between papers (256 pixels in MTP, 512 in PerA), and so do scores"
EUROSAT = (
    "GeRSP scores 80 % of the pictures after training on 20 %, MTP a held-out fifth after training on 60 %: never compare "
    "one with the other"
)
RESISC = "the test pictures differ between papers: each divides the data set for itself"
SPLITS = "the data set has no official division; the paper's own is not published, ours is seeded and is"
MICRO = (
    "the paper says mAP and means the micro average of its code's lineage; both averages are shown, and labels of "
    "BigEarthNet's second version give other numbers"
)
CLIPPED = (
    "the code's lineage clips each band at two deviations; here bands are normalised by mean and deviation"
)
POTSDAM_OA = "the paper prints two overall accuracies of ViT-B, 91.12 and 91.22"
CELLS = "sizes of inputs are not published: ours are Planet enlarged four times, in cells of 24 m with Sentinel-2 and -1"
DEEPLAB = (
    "the network is not the paper's line for line: no deep stem, one separable convolution fewer at the end"
)

PROTOCOLS: dict[str, Protocol] = {
    "bfm_potsdam": Protocol(
        BFM,
        "Potsdam",
        "mean_f1",
        "14 test tiles",
        1,
        (LABELS, POTSDAM_OA),
        ours=("batch", "method.task.auxiliary"),
    ),
    "bfm_loveda": Protocol(
        BFM,
        "LoveDA",
        "mean_iou",
        "1,796 hidden test images",
        1,
        (
            SERVER,
            "the text excludes background, but the printed mean is of all 7 classes; only no-data is ignored",
        ),
        ours=("batch", "method.task.auxiliary"),
    ),
    "gersp_eurosat": Protocol(GERSP, "EuroSAT", "accuracy", "80 % of the pictures", 5, (EUROSAT, SPLITS)),
    "gersp_resisc45": Protocol(
        GERSP, "RESISC-45", "accuracy", "80 % of the pictures (25,200)", 5, (RESISC, SPLITS)
    ),
    "gersp_loveda_psanet": Protocol(
        GERSP, "LoveDA", "mean_iou", "1,669 validation images", ours=("schedule", "method.task.auxiliary")
    ),
    "gersp_loveda_deeplabv3plus": Protocol(
        GERSP,
        "LoveDA",
        "mean_iou",
        "1,669 validation images",
        1,
        (DEEPLAB,),
        ours=("schedule", "method.task.auxiliary"),
    ),
    "pera_aid_tr20": Protocol(
        PERA,
        "AID",
        "accuracy",
        "80 % of the pictures",
        1,
        (SPLITS,),
        ours=("method.views.area", "method.views.colour"),
    ),
    "pera_ucm_tr50": Protocol(
        PERA,
        "UC Merced",
        "accuracy",
        "50 % of the pictures (1,050)",
        1,
        (SPLITS,),
        ours=("method.views.area", "method.views.colour"),
    ),
    "pera_ucm_tr80": Protocol(
        PERA,
        "UC Merced",
        "accuracy",
        "20 % of the pictures (420)",
        1,
        (SPLITS, "one error is 0.24 points: 100.0 and 99.8 differ by one picture"),
        ours=("method.views.area", "method.views.colour"),
    ),
    "pera_potsdam": Protocol(
        PERA, "Potsdam", "mean_f1", "14 test tiles", 1, (LABELS,), ours=("method.views.area", "method.window")
    ),
    "pera_loveda": Protocol(
        PERA,
        "LoveDA",
        "mean_iou",
        "1,796 hidden test images",
        1,
        (SERVER, "the paper's table mixes scores of the hidden test set with validation scores of GeRSP"),
        ours=("method.views.area", "method.window"),
    ),
    "pera_levir_cd": Protocol(
        PERA,
        "LEVIR-CD",
        "change_f1",
        "128 test pairs",
        1,
        (LEVIR,),
        ours=("optim.weight_decay", "method.views.area"),
    ),
    "skysense_aid_tr20": Protocol(
        SKYSENSE, "AID", "accuracy", "80 % of the pictures", 1, (SPLITS,), ours=TRAINING
    ),
    "skysense_aid_tr50": Protocol(
        SKYSENSE, "AID", "accuracy", "50 % of the pictures", 1, (SPLITS,), ours=TRAINING
    ),
    "skysense_resisc45_tr10": Protocol(
        SKYSENSE, "RESISC-45", "accuracy", "90 % of the pictures", 1, (RESISC, SPLITS), ours=TRAINING
    ),
    "skysense_resisc45_tr20": Protocol(
        SKYSENSE, "RESISC-45", "accuracy", "80 % of the pictures (25,200)", 1, (RESISC, SPLITS), ours=TRAINING
    ),
    "skysense_bigearthnet_s2": Protocol(
        SKYSENSE,
        "BigEarthNet",
        "map_micro",
        "the validation list of SeCo",
        1,
        (MICRO, CLIPPED),
        ours=TRAINING,
    ),
    "skysense_fmow_s2": Protocol(SKYSENSE, "fMoW-Sentinel", "accuracy", "84,966 test series", ours=TRAINING),
    "skysense_potsdam": Protocol(
        SKYSENSE, "Potsdam", "mean_f1", "14 test tiles", 1, (LABELS,), ours=WINDOWED
    ),
    "skysense_isaid": Protocol(SKYSENSE, "iSAID", "mean_iou", "458 validation images", 1, (ISAID, UNSTATED)),
    "skysense_dynamicearthnet_pla": Protocol(
        SKYSENSE,
        "DynamicEarthNet, Planet",
        "mean_iou",
        "10 validation and 10 hidden test cubes",
        ours=WINDOWED,
    ),
    "skysense_dynamicearthnet_s2": Protocol(
        SKYSENSE,
        "DynamicEarthNet, Sentinel-2",
        "mean_iou",
        "10 validation and 10 hidden test cubes",
        ours=WINDOWED,
    ),
    "skysense_levir_cd": Protocol(
        SKYSENSE, "LEVIR-CD", "change_f1", "128 test pairs", 1, (LEVIR,), ours=TRAINING
    ),
    "skysense_oscd": Protocol(SKYSENSE, "OSCD", "change_f1", "10 test regions", ours=TRAINING),
    "skysense_pastis": Protocol(
        SKYSENSE,
        "PASTIS",
        "accuracy",
        "five folds, mean",
        5,
        ("PASTIS-MM adds 1 m images that are not public, and its input sizes are not stated",),
        ours=TRAINING,
    ),
    "skysense_pastis_mm": Protocol(
        SKYSENSE,
        "PASTIS",
        "accuracy",
        "five folds, mean",
        5,
        ("PASTIS-MM adds 1 m images that are not public, and its input sizes are not stated",),
        ours=FUSED,
    ),
    "skysense_bigearthnet_mm": Protocol(
        SKYSENSE,
        "BigEarthNet-MM",
        "map_micro",
        "lists of DeCUR, which are not stated",
        1,
        (MICRO, "ours are the official lists of the first version"),
        ours=TRAINING[:-1],
    ),
    "skysense_dynamicearthnet_mm": Protocol(
        SKYSENSE, "DynamicEarthNet, all sensors", "mean_iou", "10 hidden test cubes", 1, (CELLS,), ours=FUSED
    ),
    "skysense_dynamicearthnet_mm_prototypes": Protocol(
        SKYSENSE, "DynamicEarthNet, all sensors", "mean_iou", "10 hidden test cubes", 1, (CELLS,), ours=FUSED
    ),
    "mtp_eurosat": Protocol(
        MTP,
        "EuroSAT",
        "accuracy",
        "a held-out fifth (5,400)",
        1,
        (EUROSAT, ONE_RUN),
        ours=("method.views.turns",),
    ),
    "mtp_resisc45": Protocol(
        MTP,
        "RESISC-45",
        "accuracy",
        "80 % of the pictures (25,200)",
        1,
        (RESISC, ONE_RUN),
        ours=("method.views.turns",),
    ),
    "mtp_loveda": Protocol(
        MTP,
        "LoveDA",
        "mean_iou",
        "1,796 hidden test images",
        1,
        (SERVER, "the paper trains on the training and the validation set, ours on the training set alone"),
        ours=("method.form", "method.views.turns", "method.views.colour"),
    ),
    "mtp_spacenet1": Protocol(
        MTP,
        "SpaceNet 1",
        "mean_iou",
        "1,940 tiles chosen at random",
        1,
        (SPLITS, ONE_RUN, "a leaderboard row calls the 79.69 of MAE alone a result of MTP"),
        ours=("method.form", "method.views.zoom", "method.views.turns", "method.views.colour"),
    ),
    "mtp_levir_cd": Protocol(
        MTP,
        "LEVIR-CD",
        "change_f1",
        "2,048 test tiles of 256 pixels",
        1,
        (LEVIR, ONE_RUN),
        ours=("method.form", "method.views.turns"),
    ),
    "mtp_oscd": Protocol(
        MTP,
        "OSCD",
        "change_f1",
        "10 test regions",
        1,
        (ONE_RUN, "F1 swings by more than 10 points between evaluations of one run"),
        ours=("method.form", "method.views.turns"),
    ),
    "mtp_whu": Protocol(
        MTP,
        "WHU building change",
        "change_f1",
        "1,524 of 7,620 tiles",
        1,
        (SPLITS, ONE_RUN),
        ours=("method.form", "method.views.turns"),
    ),
    "mtp_cdd": Protocol(
        MTP, "CDD", "change_f1", "3,000 test pairs", 1, (ONE_RUN,), ours=("method.form", "method.views.turns")
    ),
}
"""Protocols of papers by the name of their recipe."""
