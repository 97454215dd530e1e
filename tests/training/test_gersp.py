"""GeRSP against a loop written from the paper on torchvision's networks, and ranks against groups."""

import copy
from collections.abc import Callable
from dataclasses import replace as changed
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from pydantic import ValidationError
from torch import Tensor, nn
from two_ranks import launched

from training import checkpoint, optim, parallel, recipe
from training.colour import Colour
from training.contrast import Contrast
from training.encoders import Inputs, hierarchy, vit
from training.export import export_encoder, load_encoder
from training.feed import Samples
from training.loop import train
from training.methods import Progress, gersp
from training.methods.gersp import Naming, Spec, Views
from training.recipe import Sgd

RGB = Inputs(layer="hr", bands=("R", "G", "B"), mean=(127.0,) * 3, std=(64.0,) * 3)
SMALL = Spec(
    encoder=hierarchy.Spec(inputs=RGB, name="resnet18"),
    contrast=Contrast(queue=64),
    naming=Naming(classes=10),
    image=32,
    colour=gersp.PAPER,
    groups=1,
)
NARROW = hierarchy.Spec(inputs=RGB, name="resnet10t", channels=(16, 32, 64, 128))
TINY = recipe.replace(SMALL, encoder=NARROW)
CODE = Contrast(queue=64, momentum=0.999, follows="backbone", start="apart")
START = Progress(0, 10)


def made(spec: Spec = SMALL, seed: int = 0, **changes: object) -> gersp.GeRSP:
    torch.manual_seed(seed)
    return gersp.build(recipe.replace(spec, **changes))


def images(seed: int, count: int = 8, side: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, side, side, generator=generator, dtype=torch.float64)


def given(step: int, count: int = 8, classes: int = 10, side: int = 32) -> Views:
    labels = torch.arange(count) * 7 % classes
    first = images(3 * step, count, side)
    return Views(
        (first, first.flip(3) + 0.1 * images(3 * step + 1, count, side)),
        (images(3 * step + 2, count, side), labels),
    )


class Loop:
    """The method as section 3 of the paper tells it, on torchvision's network, one line a sentence."""

    def __init__(self, method: gersp.GeRSP, network: str) -> None:
        contrast, dtype = method.contrast, next(method.parameters()).dtype
        self.spec = method.spec
        self.backbone, self.teacher = (
            getattr(torchvision.models, network)(num_classes=1).to(dtype) for _ in range(2)
        )
        width = self.backbone.fc.in_features
        for net, source in ((self.backbone, method.encoder), (self.teacher, contrast.key_encoder.module)):
            net.fc = nn.Identity()
            net.load_state_dict(
                {name.removeprefix("body."): value for name, value in source.state_dict().items()}
            )
        self.projector = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 128)).to(dtype)
        self.projector.load_state_dict(contrast.projector.state_dict())
        self.teacher_projector = copy.deepcopy(self.projector)
        self.classifier = nn.Linear(width, method.classifier.out_features).to(dtype)
        self.classifier.load_state_dict(method.classifier.state_dict())
        self.queue, self.pointer = contrast.queue.rows.T.clone(), 0
        learned = [*self.backbone.parameters(), *self.projector.parameters(), *self.classifier.parameters()]
        self.sgd = torch.optim.SGD(learned, lr=0.007, momentum=0.9, weight_decay=5e-4)
        self.first = True

    def step(self, views: Views) -> list[float]:
        (u, v), (natural, labels) = views.scenes, views.natural
        b, m, tau = len(u), self.spec.contrast.momentum, self.spec.contrast.temperature
        features = self.backbone(torch.cat([u, natural]))
        queries = F.normalize(self.projector(features[:b]))
        scores = self.classifier(features[b:])
        with torch.no_grad():
            if not (self.first and self.spec.contrast.start == "apart"):  # it was moved when it was made
                pairs = list(zip(self.teacher.parameters(), self.backbone.parameters(), strict=True))
                if self.spec.contrast.follows == "all":
                    pairs += zip(
                        self.teacher_projector.parameters(), self.projector.parameters(), strict=True
                    )
                for old, new in pairs:
                    old.copy_(m * old + (1 - m) * new)
            keys = F.normalize(self.teacher_projector(self.teacher(v)))
        positive = torch.einsum("nc,nc->n", queries, keys)[:, None]
        negative = torch.einsum("nc,ck->nk", queries, self.queue.clone())
        logits = torch.cat([positive, negative], 1) / tau
        contrast = F.cross_entropy(logits, torch.zeros(b, dtype=torch.int64))
        naming = F.cross_entropy(scores, labels)
        for key in keys:
            self.queue[:, self.pointer] = key
            self.pointer = (self.pointer + 1) % self.queue.shape[1]
        self.sgd.zero_grad()
        (contrast + self.spec.naming.weight * naming).backward()
        self.sgd.step()
        self.first = False
        return [contrast.item(), naming.item()]


def stepped(method: gersp.GeRSP, steps: int, views: Callable[[int], Views]) -> list[float]:
    """Contrast and naming of each step in turn."""
    settings = recipe.replace(
        gersp.smoke(), optim=Sgd(lr_per_256=0.007, batch_power=0, weight_decay=5e-4, decay="all")
    )
    settings = recipe.replace(settings, schedule=recipe.Cosine(warmup=0.0, floor=1.0))
    optimizer = optim.build(method, settings.optim)
    found = []
    for step in range(steps):
        optim.set_rates(optimizer, method, settings, START)
        optimizer.zero_grad()
        losses = method.losses(views(step))
        losses.total.backward()
        optimizer.step()
        method.after_step(START)
        found += [part.item() for part in losses.parts.values()]
    return found


RAGGED = {"naming": Naming(classes=10, weight=0.5), "contrast": Contrast(queue=10, temperature=0.2)}


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{"contrast": CODE}, RAGGED], ids=["code", "paper, half a weight, a ragged queue"]
)
def test_four_steps_are_those_of_the_loop(changes):
    method = made(**changes).double()
    loop = Loop(method, "resnet18")
    wanted = [part for step in range(4) for part in loop.step(given(step, 4))]
    assert stepped(method, 4, lambda step: given(step, 4)) == pytest.approx(wanted, abs=1e-10)
    assert_the_same(method, loop, 1e-9)
    assert int(method.contrast.queue.pointer) == loop.pointer == 16 % len(method.contrast.queue.rows)


def assert_the_same(method: gersp.GeRSP, loop: Loop, tolerance: float) -> None:
    contrast = method.contrast
    for ours, theirs in (
        (method.encoder.body, loop.backbone),
        (contrast.projector, loop.projector),
        (method.classifier, loop.classifier),
    ):
        for (name, mine), other in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
            torch.testing.assert_close(mine, other, rtol=0, atol=tolerance, msg=name)
    torch.testing.assert_close(contrast.queue.rows, loop.queue.T, rtol=0, atol=tolerance)
    # the loop's teacher moves in the next step, before its keys
    m, pairs = loop.spec.contrast.momentum, [(contrast.key_encoder.module.body, loop.teacher, loop.backbone)]
    follows = 1.0 if loop.spec.contrast.follows == "all" else 0.0
    for ours, old, new in [*pairs, (contrast.key_projector.module, loop.teacher_projector, loop.projector)]:
        share = (1 - m) * (follows if old is loop.teacher_projector else 1.0)
        for mine, before, student in zip(ours.parameters(), old.parameters(), new.parameters(), strict=True):
            torch.testing.assert_close(mine, (1 - share) * before + share * student, rtol=0, atol=tolerance)


@pytest.mark.slow
def test_a_step_of_the_papers_own_network_is_that_of_the_loop():
    method = made(encoder=hierarchy.resnet50(RGB), contrast=CODE)
    loop = Loop(method, "resnet50")

    def views(step: int) -> Views:
        (u, v), (natural, labels) = given(step, 4).scenes, given(step, 4).natural
        return Views((u.float(), v.float()), (natural.float(), labels))

    assert stepped(method, 1, views) == pytest.approx(loop.step(views(0)), abs=1e-5)
    assert_the_same(method, loop, 1e-5)


def meta(spec: Spec) -> gersp.GeRSP:
    with torch.device("meta"):
        return gersp.build(spec)


def count(module: nn.Module, *, learned: bool = False) -> int:
    return sum(one.numel() for one in module.parameters() if one.requires_grad or not learned)


def test_parts_have_the_published_sizes():
    method = meta(gersp.resnet50().method)
    assert count(method.encoder) == 23_508_032
    assert count(method.contrast.projector) == 4_458_624
    assert count(method.classifier) == 2_049_000
    assert count(method, learned=True) == 30_015_656
    assert method.contrast.queue.rows.numel() == 8_388_608
    assert count(meta(gersp.moco_maid().method).contrast.projector) == 262_272
    assert count(meta(gersp.moco_v2().method).contrast.projector) == 4_458_624


def test_the_backbone_has_torchvisions_names_and_shapes():
    method = meta(gersp.resnet50().method)
    with torch.device("meta"):
        net = torchvision.models.resnet50()
    del net.fc
    net.load_state_dict(
        {name.removeprefix("body."): value for name, value in method.encoder.state_dict().items()},
        assign=True,
    )


@pytest.mark.parametrize(
    ("made_by", "epochs", "rates"),
    [
        (
            gersp.gersp_code,
            100,
            [0.007, 0.006963, 0.004, 0.001037, 0.007, 0.006963, 0.001037, 0.007, 0.001037],
        ),
        (gersp.resnet50, 100, [0.05, 0.049698, 0.0255, 0.001302, 0.05, 0.049698, 0.001302, 0.05, 0.001302]),
        (gersp.gersp_200, 200, [0.05, 0.049698, 0.0255, 0.001302, 0.05, 0.049698, 0.001302, 0.05, 0.001302]),
        (gersp.gersp_swapped, 100, [0.1, 0.099446, 0.055, 0.010554, 0.1, 0.099446, 0.010554, 0.1, 0.010554]),
        (gersp.moco_maid, 100, [0.05] * 6 + [0.005, 0.005, 0.00005]),
    ],
)
def test_rates_by_epoch_are_the_published_ones(made_by, epochs, rates):
    settings = made_by()
    each = settings.steps // epochs
    assert settings.steps == each * epochs
    for epoch, wanted in zip((0, 1, 10, 19, 20, 21, 39, 40, 99), rates, strict=True):
        for step in (each * epoch, each * (epoch + 1) - 1):
            assert optim.rate(settings, Progress(step, settings.steps)) == pytest.approx(wanted, abs=5e-7)


def test_presets_are_the_published_settings():
    paper, code = gersp.resnet50(), gersp.gersp_code()
    assert (paper.batch, paper.steps, code.batch, code.steps) == (256, 1_000_900, 512, 500_400)
    assert (paper.optim.weight_decay, code.optim.weight_decay, paper.optim.momentum) == (5e-5, 5e-4, 0.9)
    assert (paper.method.contrast.momentum, code.method.contrast.momentum) == (0.996, 0.999)
    assert {one.method.contrast.temperature for one in (paper, code, gersp.moco_maid())} == {0.07}
    assert gersp.moco_v2().method.contrast.temperature == 0.2
    assert [gersp.alpha_05().method.naming.weight, gersp.alpha_0().method.naming] == [0.5, None]
    for made_by in (
        gersp.moco_in,
        gersp.moco_maid,
        gersp.moco_in_maid,
        gersp.moco_v2,
        gersp.imp,
        gersp.alpha_0,
    ):
        settings = made_by()
        assert settings.batch == 128
        assert set(settings.streams) == set(
            settings.method.contrast.reads if settings.method.contrast else ("natural",)
        )


def test_a_rate_that_rises_is_refused():
    with pytest.raises(ValueError, match="floor"):
        recipe.load("gersp.gersp_swapped", ["optim.lr_per_256=0.01", "schedule.floor=10.0"])


def test_a_run_without_anything_to_learn_or_to_split_is_refused():
    for contrast, naming in ((None, None), (None, Naming(weight=0.0))):
        with pytest.raises(ValidationError, match="nothing would be learned"):
            Spec(encoder=SMALL.encoder, contrast=contrast, naming=naming, colour=gersp.PAPER)
    with pytest.raises(ValidationError, match="only one is read"):
        Spec(encoder=SMALL.encoder, naming=None, bn="split", colour=gersp.PAPER)


def test_the_whole_teacher_moves_by_the_momentum_after_every_step():
    method = made()
    pairs = [(method.encoder, method.contrast.key_encoder.module)]
    pairs += [(method.contrast.projector, method.contrast.key_projector.module)]
    for mine, copied in pairs:
        assert all(
            torch.equal(one, two) for one, two in zip(mine.parameters(), copied.parameters(), strict=True)
        )
    before = [[one.clone() for one in teacher.parameters()] for _, teacher in pairs]
    for student, _ in pairs:
        for parameter in student.parameters():
            parameter.data.add_(torch.randn_like(parameter))
    method.after_step(START)
    for (student, teacher), olds in zip(pairs, before, strict=True):
        for old, mine, new in zip(olds, teacher.parameters(), student.parameters(), strict=True):
            assert not torch.equal(old, mine)
            torch.testing.assert_close(mine, 0.996 * old + 0.004 * new, rtol=0, atol=1e-6)


def test_the_released_codes_teacher_starts_elsewhere_and_its_projector_stays():
    method = made(contrast=CODE)
    student, teacher = (
        nn.utils.parameters_to_vector(one.parameters())
        for one in (method.encoder, method.contrast.key_encoder.module)
    )
    assert (student - teacher).norm() / student.norm() > 1
    old = copy.deepcopy(method.contrast.key_projector.state_dict())
    method.contrast.projector[0].weight.data.add_(1.0)
    method.after_step(START)
    assert all(
        torch.equal(value, old[name]) for name, value in method.contrast.key_projector.state_dict().items()
    )


def test_nothing_but_the_student_learns():
    method = made()
    method.losses(floats(given(0))).total.backward()
    for name, parameter in method.named_parameters():
        learns = "key_" not in name
        assert parameter.requires_grad == learns and (parameter.grad is not None) == learns, name


def floats(views: Views) -> Views:
    (u, v), (natural, labels) = views.scenes, views.natural
    return Views((u.float(), v.float()), (natural.float(), labels))


def test_without_weight_photographs_share_the_norms_and_teach_nothing():
    method, alone = made(naming=Naming(classes=10, weight=0.0)), made(naming=None)
    losses = method.losses(floats(given(0)))
    losses.total.backward()
    assert losses.parts.keys() == {"contrast"}
    assert all(one.grad is None and not one.requires_grad for one in method.classifier.parameters())
    other = method.losses(changed(floats(given(0)), natural=floats(given(5)).natural))
    assert other.total != losses.total
    alone.losses(Views(floats(given(0)).scenes)).total.backward()
    assert all(
        torch.equal(one, two)
        for one, two in zip(made().encoder.parameters(), alone.encoder.parameters(), strict=True)
    )


def test_split_norms_keep_photographs_out_of_the_scenes_statistics():
    split, alone, joint = made(bn="split"), made(naming=None), made()
    views = floats(given(0))
    parts = split.losses(views).parts
    assert parts["contrast"] == alone.losses(Views(views.scenes)).parts["contrast"]
    joint.losses(views)
    name = "body.bn1.running_mean"
    assert torch.equal(split.encoder.state_dict()[name], alone.encoder.state_dict()[name])
    assert not torch.equal(joint.encoder.state_dict()[name], alone.encoder.state_dict()[name])
    assert list(split.encoder.state_dict()) == list(alone.encoder.state_dict())
    named = made(contrast=None)
    named.classifier.load_state_dict(split.classifier.state_dict())
    assert parts["naming"] == named.losses(Views(None, views.natural)).parts["naming"]
    assert torch.equal(split.natural.running_mean_0, named.encoder.state_dict()[name])


def test_keys_of_all_batches_of_a_step_join_the_queue_after_it():
    method = made(contrast=Contrast(queue=20, projection=16))
    old = method.contrast.queue.rows
    with torch.no_grad():
        for step in (0, 1):
            method.losses(floats(given(step)))
            assert torch.equal(method.contrast.queue.rows, old)
    fresh = torch.cat(method.contrast._fresh)
    method.after_step(START)
    rows = method.contrast.queue.rows
    assert torch.equal(rows[:16], fresh) and torch.equal(rows[16:], old[16:])
    with torch.no_grad():
        method.losses(floats(given(2)))
    last = method.contrast._fresh[0]
    method.after_step(START)
    assert torch.equal(method.contrast.queue.rows, torch.cat([last[4:], rows[4:16], last[:4]]))


def samples(count: int = 6, side: int = 40, label: str = "class", seed: int = 0) -> Samples:
    """Pictures each of its own brightness, with a little noise."""
    generator = torch.Generator().manual_seed(seed)
    level = 20 * torch.arange(1, count + 1).view(-1, 1, 1, 1, 1)
    pixels = level + 8 * torch.rand(count, 1, 3, side, side, generator=generator)
    return Samples(
        ids=[f"{seed}-{number}" for number in range(count)],
        layers={"hr": pixels.to(torch.uint8)},
        dates={"hr": torch.zeros(count, 1, dtype=torch.int32)},
        labels={label: torch.arange(count) % 10},
        lonlat=torch.zeros(count, 2),
        region=torch.zeros(count, dtype=torch.int64),
        bands={"hr": RGB.bands},
    )


def test_a_pair_of_views_is_of_one_picture_and_a_photograph_keeps_its_label():
    method = made(colour=Colour(), contrast=Contrast(queue=64, reads=("scenes", "natural")))
    views = method.views({"scenes": samples(), "natural": samples(4, 30, seed=1)})
    (query, key), (natural, labels) = views.scenes, views.natural
    assert query.shape == key.shape == (10, 3, 32, 32) and natural.shape == (4, 3, 32, 32)
    level = (20 * torch.tensor([1, 2, 3, 4, 5, 6, 1, 2, 3, 4]) + 3.5 - 127) / 64
    for one in (query, key):
        torch.testing.assert_close(one.mean((1, 2, 3)), level, rtol=0, atol=0.05)
    assert not torch.equal(query, key)
    assert labels.tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(natural.mean((1, 2, 3)), level[6:], rtol=0, atol=0.05)


def test_evaluation_repeats_itself_and_leaves_no_trace():
    method = made().eval()
    batch = {"scenes": samples(5), "natural": samples(7, 32)}
    state = copy.deepcopy(method.state_dict())
    first, second = method(batch, START), method(batch, START)
    assert first.total == second.total and first.parts.keys() == {"contrast", "naming"}
    assert all(torch.equal(value, state[name]) for name, value in method.state_dict().items())
    assert not method.contrast._fresh
    method.train()
    assert method(batch, START).total != method(batch, START).total


def test_lots_are_the_same_each_time_and_know_nothing_of_the_truth():
    many = samples(400)
    lots = gersp.labels(many, Naming(classes=10, shuffled=1))
    assert torch.equal(lots, gersp.labels(many, Naming(classes=10, shuffled=1)))
    assert not torch.equal(lots, gersp.labels(many, Naming(classes=10, shuffled=2)))
    truth = gersp.labels(many, Naming(classes=10))
    assert 0.04 < (lots == truth).float().mean() < 0.17
    assert lots.bincount(minlength=10).min() > 20
    with pytest.raises(ValueError, match=r"have labels \['class'\], not 'kind'"):
        gersp.labels(many, Naming(label="kind"))


def test_the_256th_class_counts_and_no_label_does_not():
    method = made(naming=Naming(classes=1000), contrast=None)
    natural = images(0, 4).float()
    found = [
        method.losses(Views(None, (natural, torch.tensor(labels)))).parts["naming"]
        for labels in ([255] * 4, [-1] * 4)
    ]
    assert found[0] > 1 and found[1] == 0


def test_an_encoder_without_batch_norms_needs_one_group():
    encoder = vit.Spec(inputs=RGB, image=32, patch=8, width=32, depth=1, heads=2)
    with pytest.raises(ValueError, match="set groups=1"):
        made(encoder=encoder, groups=8)
    method = made(encoder=encoder)
    method.losses(floats(given(0))).total.backward()
    assert method.encoder.patch_embed.proj.weight.grad.any()


@pytest.mark.slow
def test_a_run_that_stopped_goes_on_with_queue_pointer_and_teacher(corpus, tmp_path):
    words = [f"streams.{name}.corpus={corpus}" for name in ("scenes", "natural")]
    words += ["steps=4", "checkpoint_every=1", "batch=8", "method.image=16", "method.contrast.queue=10"]
    words += ["method.naming.label=class", "method.colour.blur=0", "log_every=1"]
    settings = recipe.load("gersp.smoke", words)

    def dies(path: Path) -> None:
        if path.name == "step-000003":
            raise RuntimeError("killed")

    train(settings, tmp_path / "whole")
    with pytest.raises(RuntimeError, match="killed"):
        train(settings, tmp_path / "broken", on_checkpoint=dies)
    summary = train(settings, tmp_path / "broken")
    states = []
    for name in ("whole", "broken"):
        method = gersp.build(settings.method)
        found = checkpoint.latest(tmp_path / name / "checkpoints")
        checkpoint.load(found, method, digest=summary.digest)
        states.append(method.state_dict())
    assert int(states[0]["contrast.queue.pointer"]) == 6
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert list(load_encoder(summary.encoder).state_dict()) == list(method.encoder.state_dict())


def test_a_narrow_student_opens_in_timm(tmp_path):
    encoder = made(TINY).encoder.eval()
    export_encoder(encoder, tmp_path / "encoder", {})
    with torch.no_grad():
        found = timm.create_model(f"local-dir:{tmp_path / 'encoder'}", pretrained=True).eval()
        wanted = encoder(images(0, 2).float())
        assert wanted.patches.shape == (2, 1, 128)
        assert torch.equal(found.forward_features(images(0, 2).float()), wanted.map())


class Given(gersp.GeRSP):
    """The method on views that are handed to it."""

    def views(self, batch: Views) -> Views:
        return batch


RANKED = {
    "gersp": TINY,
    "split": recipe.replace(TINY, bn="split"),
    "moco_v1": recipe.replace(TINY, naming=None, contrast=Contrast(queue=32, head="linear", temperature=0.2)),
    "moco_v2": recipe.replace(TINY, naming=None, contrast=Contrast(queue=20, temperature=0.2)),
}


def ranked(kind: str, place: parallel.Place) -> dict[str, Tensor]:
    """State after three steps in two groups, this process having its share of each batch."""
    torch.manual_seed(0)
    method = Given(recipe.replace(RANKED[kind], groups=2)).double()
    module = parallel.wrap(method, gersp.smoke(), place)
    optimizer = torch.optim.SGD(
        [one for one in method.parameters() if one.requires_grad], lr=0.1, momentum=0.9
    )
    mine = slice(8 // place.world * place.rank, 8 // place.world * (place.rank + 1))
    for step in range(3):
        views, named = given(step), method.classifier is not None
        scenes, natural = (tuple(part[mine] for part in pair) for pair in (views.scenes, views.natural))
        torch.manual_seed(step if place.rank == 0 else 100 + step)
        optimizer.zero_grad()
        module(Views(scenes, natural if named else None), START).total.backward()
        optimizer.step()
        method.after_step(START)
    return {
        name: value
        for name, value in method.state_dict().items()
        if "running" not in name and "tracked" not in name
    }


WORKER = """
import sys, torch
import test_gersp as t
from training import parallel

with parallel.joined("cpu") as place:
    found = {kind: t.ranked(kind, place) for kind in t.RANKED}
    if place.rank == 0:
        torch.save(found, sys.argv[1])
"""


@pytest.mark.integration
def test_two_ranks_are_one_process_of_two_groups(tmp_path):
    out = tmp_path / "state.pt"
    launched(WORKER, tmp_path, str(out))
    two = torch.load(out, weights_only=True)
    for kind in RANKED:
        one = ranked(kind, parallel.Place())
        assert one.keys() == two[kind].keys()
        for name, value in one.items():
            torch.testing.assert_close(two[kind][name], value, rtol=0, atol=1e-10, msg=f"{kind} {name}")
