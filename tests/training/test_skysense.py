"""SkySense against plain loops over views, cells and objects, and what each of its parts may and may not touch."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from sights import samples, tiny
from torch import Tensor

from training import budget, granularity
from training.distillation import Comparison, Granularities, LevelHead
from training.encoders import spatiotemporal
from training.granularity import Objects, ViewPairs
from training.heads import PrototypeHead
from training.methods import Progress, skysense
from training.multiview import Sights
from training.objectives import batch_nce, sinkhorn
from training.recipe import replace

WARM, COLD = 0.1, 0.04


def built(seed: int = 0, **changes: object) -> skysense.SkySense:
    torch.manual_seed(seed)
    method = skysense.build(tiny(**changes))
    for (
        name,
        part,
    ) in method.student.named_parameters():  # branches that begin with nothing would hide half the network
        if name.endswith(("norm1.weight", "norm2.weight")):
            torch.nn.init.ones_(part)
    for part in method.teacher.module.parameters():
        part.data.add_(0.05 * torch.randn_like(part))
    return method


def taken(method: skysense.SkySense, count: int = 3, **missing: object) -> Sights:
    torch.manual_seed(11)
    return method.train().sights(samples(count, **missing))


# ---- the paper's equations by hand


def placed(
    view: Tensor, row: float, column: float, size: int, flips: tuple[bool, bool, bool]
) -> tuple[float, float]:
    """Where on the tile the centre of a cell of a view lies, (x, y)."""
    across, down, turn = flips
    v, u = (row + 0.5) / size, (column + 0.5) / size
    u, v = (1 - u if across else u), (1 - v if down else v)
    u, v = (v, u) if turn else (u, v)
    return float(view[1] + u * view[3]), float(view[0] + v * view[2])


def found_in(
    view: Tensor, x: float, y: float, size: int, flips: tuple[bool, bool, bool]
) -> tuple[float, float] | None:
    """Where in a view of `size` cells the point is seen, (row, column) with cell centres at whole numbers; None outside."""
    across, down, turn = flips
    u, v = (x - float(view[1])) / float(view[3]), (y - float(view[0])) / float(view[2])
    if not (-1e-6 <= u <= 1 + 1e-6 and -1e-6 <= v <= 1 + 1e-6):
        return None
    u, v = (v, u) if turn else (u, v)
    return (1 - v if down else v) * size - 0.5, (1 - u if across else u) * size - 0.5


def between(grid: Tensor, row: float, column: float) -> Tensor:
    """A map (n, n, D) at a point, bilinearly, the border going on for ever."""
    top, left, last = math.floor(row), math.floor(column), len(grid) - 1
    total = torch.zeros_like(grid[0, 0])
    for i, j in itertools.product((0, 1), (0, 1)):
        weight = (row - top if i else 1 - row + top) * (column - left if j else 1 - column + left)
        total = total + weight * grid[min(max(top + i, 0), last), min(max(left + j, 0), last)]
    return total


def shared_out(cells: Tensor, centres: Tensor) -> Tensor:
    kernel = torch.exp(F.normalize(cells, dim=-1) @ F.normalize(centres, dim=-1).T / 0.05)
    for _ in range(3):
        kernel = kernel / kernel.sum(0, keepdim=True)
        kernel = kernel / kernel.sum(1, keepdim=True)
    return kernel


def entropy(head: PrototypeHead, taught: PrototypeHead, mine: Tensor, theirs: Tensor) -> float:
    goal = torch.softmax(taught(theirs) / COLD, -1)
    return -(goal * torch.log_softmax(head(mine) / WARM, -1)).sum().item()


def wanted(method: skysense.SkySense, sights: Sights) -> dict[str, float]:
    """Every part of the contrast in float64, view by view and cell by cell."""
    method = method.double()
    student, teacher = method.student, method.teacher.module
    large = sights.large
    seen = type(large)(
        {name: one.double() for name, one in large.images.items()}, large.days, large.present, large.region
    )
    mine, theirs = student(seen), teacher(seen)
    small = student.encoder.hr(sights.small.double()).patches[:, None]
    count = len(sights.places)

    def told(view: object, number: int) -> tuple[Tensor, tuple[bool, bool, bool]]:
        return view.boxes[number], (
            bool(view.across[number]),
            bool(view.down[number]),
            bool(view.turn[number]),
        )

    found = {}
    for source in mine:
        pairs = [
            (mine[source][v * count + b], told(sights.large_at, v * count + b), (1 - v) * count + b)
            for v in range(2)
            for b in range(count)
        ]
        if source == "hr":
            pairs += [
                (small[k], told(sights.small_at, k), v * count + k % count)
                for v in range(2)
                for k in range(len(small))
            ]
        held = large.present.get(source)
        sums = {"pixels": [], "objects": [], "images": []}
        head, taught = student.heads[source], teacher.heads[source]
        queries = getattr(method.comparison, f"queries_{source}")
        for cells, (box, flips), other in pairs:
            if held is not None and not held[other % count].any():
                continue
            whole = theirs[source][other]
            size, across = math.isqrt(cells.shape[1]), math.isqrt(whole.shape[1])
            sums["images"].append(
                sum(entropy(head, taught, cells[t].mean(0), whole[t].mean(0)) for t in range(len(cells)))
                / len(cells)
            )
            places = {}
            for s in range(size * size):
                x, y = placed(box, s // size, s % size, size, flips)
                there = found_in(
                    *(told(sights.large_at, other)[:1]), x, y, across, told(sights.large_at, other)[1]
                )
                if there is not None:
                    places[s] = there
            if not places:
                continue
            pixels, objects = 0.0, 0.0
            for t in range(len(cells)):
                grid = whole[t].view(across, across, -1)
                partner = torch.stack([between(grid, *there) for there in places.values()])
                own = cells[t][list(places)]
                pixels += sum(entropy(head, taught, a, b) for a, b in zip(own, partner, strict=True)) / len(
                    places
                )
                shares = shared_out(partner, queries)
                for _ in range(2):
                    shares = shared_out(partner, shares.T @ partner / shares.sum(0)[:, None])
                weights = shares / shares.sum(0)
                objects += sum(
                    entropy(head, taught, column @ own, column @ partner) for column in weights.T
                ) / len(queries)
            sums["pixels"].append(pixels / len(cells))
            sums["objects"].append(objects / len(cells))
        found |= {f"{source}_{level}": sum(values) / len(values) for level, values in sums.items()}
    return found


@pytest.mark.parametrize("missing", [{}, {"s1": [1], "hr": [0]}])
def test_the_contrast_is_that_of_the_loops(missing):
    method = built()
    sights = taken(method, 2, without=missing)
    with torch.no_grad():
        value = method.losses(sights, Progress(0, 100))
        loops = wanted(method, sights)
    for name, loss in loops.items():
        assert value.parts[name].item() == pytest.approx(loss, rel=2e-4), name
    total = sum(loops.values()) + value.parts["alignment"].item()
    assert value.total.item() == pytest.approx(total, rel=2e-4)


def test_alignment_is_the_sum_over_ordered_pairs_without_negatives_from_the_same_tile():
    method = built()
    sights = taken(method, 4, without={"s1": [2]})
    places = sights.places.clone()
    places[3] = places[0]
    sights = Sights(sights.large, sights.small, sights.large_at, sights.small_at, places)
    with torch.no_grad():
        mine = {name: part.double() for name, part in method.student(sights.large).items()}
        value = method.aligned({name: part.float() for name, part in mine.items()}, sights)
        total = 0.0
        for view in range(2):
            rows = range(4 * view, 4 * view + 4)
            z = {
                name: F.normalize(method.projections[name].double()(mine[name].mean((1, 2))), dim=-1)
                for name in ("hr", "s2", "s1")
            }
            for one, other in itertools.permutations(z, 2):
                held = [
                    r
                    for r in rows
                    if sights.large.present[one][r].any() and sights.large.present[other][r].any()
                ]
                losses = []
                for r in held:
                    scores = {
                        k: float(z[one][r] @ z[other][k] / 0.07)
                        for k in held
                        if k == r or places[k % 4] != places[r % 4]
                    }
                    losses.append(-scores[r] + math.log(sum(math.exp(score) for score in scores.values())))
                total += sum(losses) / len(losses) / 2
    assert value.item() == pytest.approx(total, rel=1e-5)


def test_nothing_is_contrasted_where_nothing_is_there():
    rows = torch.randn(3, 5, requires_grad=True)
    none = torch.zeros(3, dtype=torch.bool)
    loss = batch_nce(rows, torch.randn(3, 5), 0.1, there=none)
    loss.backward()
    assert loss == 0 and not rows.grad.any()


# ---- parts


def test_rows_left_out_of_sinkhorn_are_as_if_they_were_not():
    logits = torch.randn(4, 10, 3)
    there = torch.rand(4, 10) < 0.6
    found = sinkhorn(logits, 0.5, 3, whole=False, there=there)
    for number in range(4):
        alone = sinkhorn(logits[number][there[number]], 0.5, 3, whole=False)
        torch.testing.assert_close(found[number][there[number]], alone)
        assert not found[number][~there[number]].any()
    assert not sinkhorn(logits, 0.5, 3, whole=False, there=there & False).any()


def test_objects_are_means_of_what_belongs_to_them():
    """Four cells of two kinds and two objects: each object is the mean of one kind, in both views."""
    partner = torch.tensor([[1.0, 0.0], [0.99, 0.02], [0.0, 1.0], [0.02, 0.98]])
    mine = torch.tensor([[1.0, 2.0], [3.0, 4.0], [-1.0, 0.0], [-3.0, 8.0]])
    pairs = ViewPairs(
        mine[None, None],
        partner[None, None],
        torch.ones(1, 4, dtype=torch.bool),
        partner[None, None],
        torch.ones(1, dtype=torch.bool),
    )
    found = granularity.objects(pairs, torch.eye(2), Objects(least=2))
    torch.testing.assert_close(found.mine, torch.tensor([[2.0, 3.0], [-2.0, 4.0]]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        found.theirs, torch.tensor([[0.995, 0.01], [0.01, 0.99]]), rtol=1e-4, atol=1e-4
    )
    assert found.shares.tolist() == [0.5, 0.5]
    alone = granularity.objects(pairs, torch.eye(2), Objects(least=2, match="independent"))
    torch.testing.assert_close(alone.theirs, found.theirs)  # the teacher's own cells are its partners here


def test_of_pixels_so_many_are_taken_and_those_with_a_partner_first():
    there = torch.zeros(2, 9, dtype=torch.bool)
    there[0, :2], there[1] = True, True
    cells = torch.arange(2 * 5 * 9.0).view(2, 5, 9, 1)
    pairs = ViewPairs(cells, cells + 0.5, there, cells, torch.tensor([True, True]))
    chosen = granularity.chosen(pairs, torch.rand(2, 9), torch.rand(2, 5), (4, 3))
    rows = granularity.pixels(pairs, *chosen)
    assert rows.shares.view(2, -1).sum(1).tolist() == pytest.approx([1, 1])
    assert rows.shares.view(2, 3, 4)[0, 0].tolist() == pytest.approx([1 / 6, 1 / 6, 0, 0])
    assert torch.equal(rows.theirs, rows.mine + 0.5)
    counted = rows.mine[rows.shares > 0].flatten().long()
    assert len(counted.unique()) == 3 * 2 + 3 * 4 and set((counted[:6] % 9).tolist()) == {0, 1}


def test_each_level_has_a_centre_that_follows_the_teachers_mean_of_it():
    method = built()
    sights = taken(method)
    with torch.no_grad():
        method.losses(sights, Progress(0, 100))
        theirs = method.teacher.module(sights.large)
        wanted_ = method.teacher.module.heads["fused"](theirs["fused"].mean(2)).mean((0, 1))
    method.comparison.settle()
    centres = method.comparison.centres
    torch.testing.assert_close(centres["fused_images"].value, 0.1 * wanted_, rtol=1e-4, atol=1e-6)
    assert len({tuple(centre.value.tolist()) for centre in centres.values()}) == 12


def test_sinkhorn_in_place_of_a_centre_shares_the_prototypes_out():
    torch.manual_seed(0)
    spec = Granularities(
        balance="sinkhorn", levels=("images",), head=LevelHead(prototypes=6, hidden=8, bottleneck=4)
    )
    comparison = Comparison(spec, {"s2": 5}, 64)
    head = PrototypeHead(5, 6, 8, 4)
    cells = torch.randn(12, 2, 9, 5)
    held = torch.tensor([True] * 9 + [False] * 3)
    pairs = ViewPairs(cells, cells, torch.ones(12, 9, dtype=torch.bool), cells, held)
    rows = comparison.rows("s2", "images", [pairs])
    target = comparison.target(rows, head, comparison.centres["s2_images"], 0.05)(slice(None))
    alone = sinkhorn(head(rows.theirs[:18]), 0.05)
    torch.testing.assert_close(target[:18], alone)
    assert not target[18:].any()
    comparison.settle()
    assert not comparison.centres["s2_images"].value.any()


def slopes(method: skysense.SkySense, sights: Sights, part: str) -> dict[str, Tensor]:
    """Gradients of the learning parameters whose names begin so."""
    method.zero_grad(set_to_none=True)
    torch.manual_seed(0)
    method.losses(sights, Progress(0, 100)).total.backward()
    learning = {name: found for name, found in method.named_parameters() if found.requires_grad}
    return {name: found.grad.clone() for name, found in learning.items() if name.startswith(part)}


def test_a_loss_that_is_off_gives_its_own_parts_no_gradient_and_others_theirs():
    with_it, without = (built(alignment=skysense.Alignment(weight=weight)) for weight in (1.0, 0.0))
    sights = taken(with_it, 2)
    assert all(slope.any() for slope in slopes(with_it, sights, "projections.").values())
    assert not any(slope.any() for slope in slopes(without, sights, "projections.").values())
    on, off = (slopes(method, sights, "student.heads") for method in (with_it, without))
    assert on and all(torch.equal(on[name], off[name]) for name in on)


def test_levels_may_have_heads_of_their_own():
    head = LevelHead(prototypes=24, hidden=16, bottleneck=8, each="level")
    method = built(contrast=Granularities(levels=("pixels", "images"), head=head))
    names = {f"{a}_{b}" for a in ("hr", "s2", "s1", "fused") for b in ("pixels", "images")}
    assert set(method.student.heads) == names == set(method.comparison.centres)
    found = slopes(method, taken(method, 2), "student.heads")
    assert {name.split(".")[2] for name, slope in found.items() if slope.any()} == names


def test_the_teacher_gets_no_gradient_and_reads_the_same_prototypes():
    method = built()
    value = method.losses(taken(method), Progress(0, 100))
    value.total.backward()
    assert all(part.grad is None for part in method.teacher.parameters())
    held = method.student.encoder.places.held.clone()
    method.after_step(Progress(1, 100))
    known = method.student.encoder.places
    assert not torch.equal(known.held, held) and (known.visits > 0).sum() >= 2
    assert torch.equal(method.encoder.places.held, known.held)
    assert torch.equal(method.encoder.places.visits, known.visits)


def test_prototypes_follow_the_students_cells_of_both_views():
    method = built()
    sights = taken(method, 2)
    twin = spatiotemporal.build(tiny().encoder).places.train()
    twin.load_state_dict(method.student.encoder.places.state_dict())
    with torch.no_grad():
        method.losses(sights, Progress(0, 100))
        encoder = method.student.encoder
        cells = encoder.fused(encoder.cells(encoder.encoded(sights.large), sights.large), sights.large)
    twin.absorb(cells, sights.large.regions)
    twin.settle()
    method.after_step(Progress(1, 100))
    torch.testing.assert_close(method.encoder.places.held, twin.held)


def test_a_place_without_a_sensor_changes_nothing_of_that_sensors_loss():
    method = built()
    sights = taken(method, 3, without={"s1": [2]})
    other = Sights(
        type(sights.large)(
            sights.large.images
            | {"s1": sights.large.images["s1"] + torch.tensor([0, 0, 9.0] * 2).view(-1, 1, 1, 1, 1)},
            sights.large.days,
            sights.large.present,
            sights.large.region,
        ),
        sights.small,
        sights.large_at,
        sights.small_at,
        sights.places,
    )
    with torch.no_grad():
        one, two = (method.losses(each, Progress(0, 100)) for each in (sights, other))
    for name, part in one.parts.items():
        torch.testing.assert_close(two.parts[name], part, rtol=1e-5, atol=1e-6, msg=name)


def test_a_batch_without_a_sensor_is_a_step_and_leaves_its_centre():
    method = built()
    sights = taken(method, 2, without={"s1": [0, 1]})
    value = method.losses(sights, Progress(0, 100))
    value.total.backward()
    assert value.total.isfinite() and value.parts["s1_pixels"] == 0
    method.comparison.centres["s1_images"].value.fill_(1.0)
    method.after_step(Progress(1, 100))
    assert (method.comparison.centres["s1_images"].value == 1).all()
    assert method.comparison.centres["s2_images"].value.any()


def test_the_temperature_is_learned_within_bounds():
    method = built()
    method.temperature.data.fill_(0.9)
    method.after_step(Progress(1, 100))
    assert method.temperature.item() == pytest.approx(0.5)


def test_features_have_the_shapes_of_the_paper_in_small():
    method = built(s2_dates=5)
    sights = taken(method, 2)
    found = {name: tuple(part.shape) for name, part in method.student(sights.large).items()}
    cells = {name: (4, dates, 16, 64) for name, dates in (("hr", 1), ("s2", 5), ("s1", 2), ("fused", 1))}
    assert found == cells  # 64 before fusion; 32 after, and as many of prototypes
    assert sights.large.images["hr"].shape == (4, 1, 3, 128, 128) and sights.small.shape == (2, 3, 128, 128)


def test_the_contrast_starts_near_chance():
    """Twelve terms of ln K each, when the teacher does not yet decide."""
    contrast = replace(tiny().contrast, head=LevelHead(prototypes=512, hidden=64, bottleneck=256))
    torch.manual_seed(0)
    method = skysense.build(tiny(contrast=contrast))
    with torch.no_grad():
        value = method.losses(taken(method), Progress(0, 100))
    total = value.total.item() - value.parts["alignment"].item()
    assert total == pytest.approx(12 * math.log(512), rel=0.15)


# ---- recipes


def test_the_published_counts_are_those_that_are_shown():
    found = budget.counts(skysense.huge())
    assert found["encoder.hr"] == 655_074_704
    assert found["encoder.s2"] == 302_738_432
    assert found["encoder.s1"] == 302_607_360
    assert found["encoder.up"] == 92_364_800
    assert found["encoder.fusion"] == 305_195_008
    assert found["encoder.dates"] == 1_027_840
    assert found["encoder"] == 1_659_008_144
    assert found["student.heads"] == 107_758_592
    assert found["encoder.places (kept)"] == 4096 * 100 * 1024 + 4096


def test_the_rows_of_table_5b_differ_by_one_part_each():
    rows = [
        skysense.table5b_baseline(),
        skysense.table5b_granularity(),
        skysense.table5b_sensors(),
        skysense.table5b_alignment(),
        skysense.huge(),
    ]
    assert all(
        row.model_copy(update={"method": None}) == rows[-1].model_copy(update={"method": None})
        for row in rows
    )
    sensors = [tuple(row.method.encoder.sensors) for row in rows]
    assert sensors == [("hr",), ("hr",), *[("hr", "s2", "s1")] * 3]
    assert [row.method.contrast.levels for row in rows][:2] == [("images",), ("pixels", "objects", "images")]
    assert [row.method.contrast.fused for row in rows] == [False, False, True, True, True]
    assert [row.method.alignment is None for row in rows] == [True, True, True, False, False]
    assert [row.method.encoder.places is None for row in rows] == [True] * 4 + [False]


def test_high_resolution_alone_is_a_step():
    spec = tiny(parts=("hr", "fusion"), alignment=None, contrast=replace(tiny().contrast, fused=False))
    torch.manual_seed(0)
    method = skysense.build(spec)
    value = method({"scenes": samples(2)}, Progress(0, 100))
    value.total.backward()
    assert set(value.parts) >= {"hr_pixels", "hr_objects", "hr_images"} and "fused_images" not in value.parts
    learning = {name for name, part in method.named_parameters() if part.requires_grad}
    assert not any("fusion" in name or "dates" in name for name in learning)
    assert all(part.grad is not None for part in method.parameters() if part.requires_grad)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="prototypes are learned from fused cells"):
        tiny(contrast=replace(tiny().contrast, fused=False))
    with pytest.raises(ValueError, match="one sensor has nothing to be aligned with"):
        tiny(parts=("hr", "fusion", "places"))


def test_positions_dates_tokens_and_scales_do_not_decay():
    from training import optim

    method = built()
    found = optim.build(method, skysense.huge().optim)
    optim.set_rates(found, method, skysense.huge(), Progress(50_000, 100_000))
    names = {id(part): name for name, part in method.named_parameters()}
    decayed = {
        names[id(part)] for group in found.param_groups if group["weight_decay"] for part in group["params"]
    }
    assert not [
        name
        for name in decayed
        if name.endswith(("logit_scale", "pos_embed", "table", "token", "temperature"))
    ]
    assert "student.encoder.fusion.blocks.0.attn.qkv.weight" in decayed and "projections.hr.weight" in decayed
    start = Progress(0, 100_000)
    assert method.rate_scale("student.heads.hr.last_layer.weight_v", start) == 0 or tiny().still == 0
