"""Protocols against the tables of their papers, written down a second time."""

import pytest
import torch

from geodata import benchmarks
from training.encoders import vit
from training.feed import Samples
from training.methods import Progress, build
from training.metrics import Change, Confusion, MultiLabel, TopK
from training.recipe import Cosine, Poly, Steps, load, protocols

UPERNET, BIT, UNET, LINEAR = "upernet", "bit", "siamese_unet", None

# optimizer, rate, weight decay, layer decay, drop path, batch, steps, head, pixels of a training view
TABLE = {
    "bfm_potsdam": ("adamw", 6e-5, 0.01, 0.8, 0.1, 8, 160_000, UPERNET, 512),
    "bfm_loveda": ("adamw", 6e-5, 0.01, 0.8, 0.1, 8, 80_000, UPERNET, 512),
    "gersp_eurosat": ("sgd", 0.01, 1e-4, 1, None, 64, 100 * 5400 / 64, LINEAR, 224),
    "gersp_resisc45": ("sgd", 0.01, 1e-4, 1, None, 64, 100 * 6300 / 64, LINEAR, 224),
    "gersp_loveda_psanet": ("sgd", 0.01, 5e-4, 1, None, 4, 80_000, "psanet", 512),
    "gersp_loveda_deeplabv3plus": ("sgd", 0.01, 5e-4, 1, None, 4, 80_000, "deeplabv3plus", 512),
    "pera_aid_tr20": ("adamw", 1e-4, 5e-6, 1, None, 16, 200 * 2000 / 16, LINEAR, 512),
    "pera_ucm_tr50": ("adamw", 5e-5, 1e-4, 1, 0.3, 16, 200 * 1050 / 16, LINEAR, 512),
    "pera_ucm_tr80": ("adamw", 5e-5, 1e-4, 1, 0.3, 16, 200 * 1680 / 16, LINEAR, 512),
    "pera_potsdam": ("adamw", 1e-4, 1e-4, 1, 0.1, 8, 200 * 6144 / 8, UPERNET, 512),
    "pera_loveda": ("adamw", 5e-5, 1e-4, 1, 0.1, 8, 200 * 2522 / 8, UPERNET, 512),
    "pera_levir_cd": ("adamw", 1e-4, 1e-4, 1, 0.2, 8, 500 * 1780 / 8, BIT, 512),
    "skysense_isaid": ("adamw", 6e-5, 0.01, 0.9, 0.2, 16, 80_000, UPERNET, 896),
    "skysense_aid_tr20": ("adamw", 1e-4, 0.05, 0.9, 0.2, 64, 100 * 2000 / 64, LINEAR, 224),
    "mtp_eurosat": ("adamw", 6e-5, 0.05, 0.9, 0.3, 64, 100 * 16200 / 64, LINEAR, 224),
    "mtp_resisc45": ("adamw", 6e-5, 0.05, 0.9, 0.3, 64, 200 * 6300 / 64, LINEAR, 224),
    "mtp_loveda": ("adamw", 6e-5, 0.05, 0.9, 0.3, 8, 80_000, UPERNET, 512),
    "mtp_spacenet1": ("adamw", 6e-5, 0.05, 0.9, 0.3, 8, 80_000, UPERNET, 384),
    "mtp_levir_cd": ("adamw", 6e-5, 0.05, 0.9, 0.3, 32, 150 * 7120 / 32, UNET, 256),
    "mtp_whu": ("adamw", 6e-5, 0.05, 0.9, 0.3, 32, 200 * 5334 / 32, UNET, 256),
    "mtp_cdd": ("adamw", 6e-5, 0.05, 0.9, 0.3, 32, 200 * 10_000 / 32, UNET, 256),
    "mtp_oscd": ("adamw", 6e-5, 0.05, 0.9, 0.3, 32, 100 * 827 / 32, UNET, 224),
}

SCHEDULES = {
    "bfm_potsdam": Poly(power=1.0, warmup=1500 / 160_000),
    "bfm_loveda": Poly(power=1.0, warmup=1500 / 80_000),
    "gersp_eurosat": Steps(milestones=(0.3, 0.6, 0.9), gamma=0.1, warmup=0.0),
    "gersp_loveda_psanet": Poly(power=0.9, warmup=0.0),
    "pera_aid_tr20": Cosine(warmup=0.1),
    "pera_potsdam": Cosine(warmup=0.1, floor=0.05),
    "pera_loveda": Cosine(warmup=0.1, floor=0.1),
    "pera_levir_cd": Cosine(warmup=0.0, floor=0.01),
    "skysense_isaid": Poly(power=1.0, warmup=1500 / 80_000),
    "mtp_eurosat": Cosine(warmup=5 / 100),
    "mtp_resisc45": Cosine(warmup=5 / 200),
    "mtp_loveda": Cosine(warmup=1500 / 80_000),
    "mtp_levir_cd": Cosine(warmup=5 / 150),
}


@pytest.mark.parametrize("name", TABLE)
def test_settings_are_those_of_the_papers(name):
    kind, rate, weight_decay, layer_decay, drop_path, batch, steps, head, pixels = TABLE[name]
    recipe = load(name)
    optim, method = recipe.optim, recipe.method
    assert (optim.kind, optim.lr_per_256, optim.batch_power) == (kind, rate, 0)
    assert (optim.weight_decay, optim.layer_decay) == (weight_decay, layer_decay)
    assert method.drop_path == drop_path and recipe.batch == batch
    assert 0 <= recipe.steps - steps < 1
    assert getattr(getattr(method.task, "decoder", None), "kind", None) == head
    data = benchmarks.find(recipe.streams["labelled"].corpus.split("/")[-1].split("@")[0])
    chip = {"pera_levir_cd": 512, "mtp_levir_cd": 256}.get(name)
    assert pixels in (method.views.crop, method.views.side, chip)
    assert method.task.classes == data.classes or name.startswith(("mtp_", "pera_levir"))
    assert method.freeze is False


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_those_of_the_papers(name):
    assert load(name).schedule == SCHEDULES[name]


def test_what_makes_a_recipe_its_papers_own():
    potsdam, psanet, pera = (
        load("bfm_potsdam").method,
        load("gersp_loveda_psanet"),
        load("pera_potsdam").method,
    )
    assert (potsdam.form, potsdam.window.size, potsdam.window.stride) == ("vitdet", 512, 384)
    assert potsdam.views.zoom == (0.5, 2.0) and potsdam.views.colour is not None
    assert potsdam.scored == "scenes" and potsdam.task.auxiliary == 0.4
    assert psanet.optim.decay == "all" and psanet.optim.momentum == 0.9
    assert psanet.method.form == "dilated" and psanet.method.window is None  # scored whole, at 1,024
    assert tuple(1024 * zoom for zoom in psanet.method.views.zoom) == (256, 1024)  # 512 x 0.5 to 2
    assert (pera.form, pera.task.decoder.channels, pera.task.decoder.out) == ("adapter", 512, 256)
    assert load("pera_levir_cd").method.views.colour is None
    assert load("skysense_fmow_s2").method.task.ranks == (1, 5)
    assert load("skysense_dynamicearthnet_s2").method.scored == "months"
    assert load("mtp_oscd").method.inputs.bands == ("B04", "B03", "B02")
    assert load("skysense_isaid").method.scored == "samples"  # everybody scores the patches
    assert len(load("skysense_isaid").method.task.classes) == 16  # background counts


def test_a_benchmark_and_the_protocols_it_serves_name_each_other():
    served = {
        (one.name, protocol)
        for one in map(benchmarks.find, benchmarks.names())
        for protocol in one.protocols
        if protocol in protocols()
    }
    for name in protocols():
        corpus = load(name).streams["labelled"].corpus.split("/")[-1].split("@")[0]
        assert (corpus, name) in served, f"{corpus} does not say that it serves {name}"
    assert {protocol for _, protocol in served} == set(protocols())


def test_a_bare_name_is_a_protocol_and_an_unknown_one_lists_them():
    assert load("gersp_eurosat", ["batch=32"]).name == "gersp_eurosat"
    with pytest.raises(ValueError, match=r"'gersp_eurosatt' is no recipe's name.*bfm_loveda"):
        load("gersp_eurosatt")


def invented(data: benchmarks.Benchmark, side: int, count: int = 2) -> Samples:
    """Samples of a benchmark's layers and labels, all of chance."""
    dates = {"change": 2, "crops": 3}.get(data.task, 1)
    torch.manual_seed(0)
    layers, days = {}, {}
    for sensor in data.sensors:
        mask = sensor.prefix == "mask"
        length, most = (1, len(data.classes)) if mask else (dates, 200)
        pixels = torch.randint(0, most, (count, length, len(sensor.bands), side, side))
        layers[sensor.prefix] = pixels.to(torch.uint8 if mask else torch.int32)
        days[sensor.prefix] = (30 * torch.arange(length)).expand(count, length).to(torch.int32)
    return Samples(
        ids=[str(number) for number in range(count)],
        layers=layers,
        dates=days,
        labels={name: torch.randint(0, len(data.classes), (count,)) for name in ("class", "classes")},
        lonlat=torch.zeros(count, 2),
        region=torch.zeros(count, dtype=torch.int64),
        bands={sensor.prefix: sensor.band_names for sensor in data.sensors},
        nodata={sensor.prefix: sensor.nodata for sensor in data.sensors},
    )


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("eurosat_rgb_500_probe", Confusion),
        ("skysense_bigearthnet_s2", MultiLabel),
        ("skysense_fmow_s2", TopK),
        ("skysense_pastis", Confusion),
        ("pera_levir_cd", Change),
        ("mtp_oscd", Change),
        ("pera_loveda", Confusion),
    ],
)
def test_a_small_encoder_learns_and_is_scored_by_a_protocol_of_each_kind(name, metric):
    recipe = load(name)
    data = benchmarks.find(recipe.streams["labelled"].corpus.split("/")[-1].split("@")[0])
    method = recipe.method
    inputs = method.inputs or method.encoder.inputs
    bands = len(inputs.bands)
    inputs = inputs.model_copy(update={"mean": (100.0,) * bands, "std": (50.0,) * bands})
    views = method.views.model_copy(
        update={"side": method.views.side and 64, "crop": method.views.crop and 64}
    )
    changes = {
        "views": views,
        "encoder": vit.Spec(inputs=inputs, image=64, patch=8, width=32, depth=4, heads=2),
    }
    model = build(method.model_copy(update=changes | {"inputs": inputs if method.inputs else None}))
    samples = invented(data, 64)
    losses = model({"labelled": samples}, Progress(0, 10))
    losses.total.backward()
    assert losses.total.isfinite()
    grown = [part.grad is not None for part in model.encoder.parameters() if part.requires_grad]
    assert sum(grown) >= 0.9 * len(grown)  # none of a frozen one
    with torch.no_grad():
        model.eval()
        said = model.logits(samples) if metric is TopK else model.predict(samples)
        empty = model.metric()
        assert type(empty) is metric
        scores = empty.update(said, model.target(samples)).scores()
    assert any(value == value for value in scores.values())
