"""SkySense's encoder: its parts against timm's, loops and published counts; what may be missing, moved and left out."""

import copy
from datetime import date, timedelta
from functools import partial

import pytest
import timm
import torch
from timm.models.swin_transformer_v2 import SwinTransformerV2
from torch import Tensor, nn

from training import parallel
from training.augment import UNDATED
from training.encoders import Encoder, fusion, sentinel, swinv2
from training.encoders import spatiotemporal as st
from training.export import export_encoder, load_encoder
from training.observation import Observation

TINY = st.tiny()
RADAR = sentinel.SENTINEL1_INPUTS


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def moved(module: nn.Module) -> nn.Module:
    """The module with every parameter moved, so that no norm is 1 and no bias 0."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return module.eval()


@pytest.fixture(scope="module")
def whole() -> st.Spatiotemporal:
    torch.manual_seed(0)
    encoder = moved(st.build(TINY))
    encoder.places.held.mul_(5)
    return encoder


def seen(*sensors: str, side: int = 4) -> Observation:
    """Two places; cells of `side` x `side`."""
    shapes = {
        "hr": (2, 1, 3, 32 * side, 32 * side),
        "s2": (2, 3, 10, side, side),
        "s1": (2, 2, 2, side, side),
    }
    images = {name: normal(*shapes[name], seed=place) for place, name in enumerate(sensors)}
    days = {name: 18000 + 37 * torch.arange(image.shape[1]).expand(2, -1) for name, image in images.items()}
    present = {name: torch.ones_like(when, dtype=torch.bool) for name, when in days.items()}
    return Observation(images, days, present, torch.tensor([3, 60]))


# Counts


@pytest.mark.parametrize(
    ("size", "counts"),
    [
        ("huge", (655_074_704, 302_738_432, 302_607_360, 92_364_800, 305_195_008, 1_027_840, 1_659_008_144)),
        ("base", (86.89, 85.38, 85.28, 25.20, 85.84, 0.37, 369.0)),
        ("small", (27.58, 21.45, 21.41, 9.46, 10.94, 0.28, 91.1)),
        ("tiny", (1.31, 0.49, 0.48, 0.60, 0.35, 0.07, 3.30)),
    ],
)
def test_parameters_are_as_many_as_published(size, counts):
    with torch.device("meta"):
        encoder = st.build(getattr(st, size)())
    found = [
        sum(parameter.numel() for parameter in encoder.get_submodule(name).parameters())
        for name in ("hr", "s2", "s1", "up", "fusion", "dates", "")
    ]
    if size == "huge":
        assert tuple(found) == counts
        assert sum(p.numel() for p in encoder.fusion.proj.parameters()) == 2_884_608
        assert sum(p.numel() for p in encoder.fusion.blocks.parameters()) == 302_309_376
        assert encoder.places.held.numel() == 419_430_400
    else:
        *parts, total = (count / 1e6 for count in found)
        assert [round(part, 2) for part in parts] == list(counts[:-1])
        assert total == pytest.approx(counts[-1], abs=0.05)


def test_the_huge_swin_has_three_further_norms_and_four_of_maps_when_asked():
    def counted(**changes: object) -> int:
        with torch.device("meta"):
            encoder = swinv2.build(swinv2.huge().model_copy(update=changes))
        return sum(parameter.numel() for parameter in encoder.parameters())

    assert counted(further_norms=0) == 655_066_256  # timm's
    assert counted(stage_norms=True) == 655_079_632
    with torch.device("meta"):
        names = swinv2.build(swinv2.huge()).state_dict()
    assert [name for name in names if name.endswith("norm3.weight")] == [
        f"layers.2.blocks.{block}.norm3.weight" for block in (5, 11, 17)
    ]


# Swin V2


def theirs(spec: swinv2.Spec, size: int, *, strict: bool) -> SwinTransformerV2:
    return SwinTransformerV2(
        img_size=size, embed_dim=spec.width, depths=spec.depths, num_heads=spec.heads, window_size=spec.window,
        num_classes=0, strict_img_size=strict,
    ).eval()  # fmt: skip


@pytest.mark.parametrize(("height", "width"), [(256, 256), (160, 288)])
def test_swin_v2_is_timms(height, width):
    encoder = moved(swinv2.build(TINY.hr))
    reference = theirs(TINY.hr, 256, strict=False)
    reference.load_state_dict(encoder.state_dict())
    images = normal(2, 3, height, width)
    expected, maps = reference.forward_intermediates(images, norm=True)
    tokens = encoder(images)
    assert (tokens.height, tokens.width) == (height // 32, width // 32)
    torch.testing.assert_close(tokens.map(), expected.permute(0, 3, 1, 2), rtol=1e-5, atol=1e-5)
    for found, wanted, channels in zip(tokens.maps, maps, encoder.channels, strict=True):
        assert found.shape[1] == channels
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_a_map_of_one_window_is_not_shifted():
    encoder = moved(swinv2.build(TINY.hr))  # made for 256 pixels, where the last map is two windows wide
    reference = theirs(TINY.hr, 128, strict=True)  # timm's made for 128, where it is one
    reference.load_state_dict(encoder.state_dict())
    images = normal(2, 3, 128, 128)
    expected = reference.forward_features(images).permute(0, 3, 1, 2)
    torch.testing.assert_close(encoder(images).map(), expected, rtol=1e-5, atol=1e-5)
    shifted = theirs(TINY.hr, 256, strict=False)
    shifted.load_state_dict(encoder.state_dict())
    assert (shifted.forward_features(images).permute(0, 3, 1, 2) - expected).abs().max() > 1e-3


def test_further_norms_come_after_their_blocks():
    spec = TINY.hr.model_copy(update={"depths": (1, 1, 4, 1), "further_norms": 2})
    encoder = moved(swinv2.build(spec))
    block, cells = encoder.layers.get_submodule("2").blocks[1], normal(2, 8, 8, 96)
    plain = swinv2.SwinTransformerV2Block(96, (8, 8), 4, 4, 2).eval()
    plain.load_state_dict({name: value for name, value in block.state_dict().items() if "norm3" not in name})
    torch.testing.assert_close(block(cells), block.norm3(plain(cells)), rtol=1e-5, atol=1e-5)
    assert [name for name in encoder.state_dict() if name.endswith("norm3.bias")] == [
        f"layers.2.blocks.{place}.norm3.bias" for place in (1, 3)
    ]


def test_stage_norms_are_norms_of_the_maps():
    encoder = moved(swinv2.build(TINY.hr.model_copy(update={"stage_norms": True})))
    plain = swinv2.build(TINY.hr).eval()
    plain.load_state_dict(
        {name: value for name, value in encoder.state_dict().items() if not name.startswith("stage_norms")}
    )
    images = normal(1, 3, 128, 128)
    found, bare = encoder(images).maps, plain(images).maps
    for norm, one, other in zip(encoder.stage_norms, found, bare, strict=False):
        torch.testing.assert_close(one, norm(other.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
    assert torch.equal(found[3], bare[3])


def test_swin_v2_starts_as_published_and_drops_paths_by_depth():
    encoder = swinv2.build(TINY.hr.model_copy(update={"drop_path": 0.35}))
    for name, parameter in encoder.named_parameters():
        if "blocks" in name and name.endswith(("norm1.weight", "norm2.weight")):
            assert not parameter.any()  # each block adds nothing at first
    blocks = [block for stage in encoder.layers.children() for block in stage.blocks]
    rates = [getattr(block.drop_path2, "drop_prob", 0.0) for block in blocks]
    assert rates == pytest.approx([0.05 * place for place in range(8)])


@pytest.mark.parametrize(("height", "width"), [(120, 256), (256, 250), (96, 256)])
def test_images_that_windows_do_not_fit_are_refused(height, width):
    with pytest.raises(ValueError, match="windows of 4"):
        swinv2.build(TINY.hr)(torch.zeros(1, 3, height, width))


# The ViT of Sentinel


def test_the_sentinel_vit_is_timms_without_its_last_norm():
    encoder, images = moved(sentinel.build(TINY.s2.model_copy(update={"image": 16}))), normal(2, 10, 16, 16)
    reference = timm.models.VisionTransformer(
        img_size=16, patch_size=4, in_chans=10, embed_dim=96, depth=4, num_heads=3, num_classes=0, final_norm=False,
        norm_layer=partial(nn.LayerNorm, eps=1e-5),
    ).eval()  # fmt: skip
    reference.load_state_dict(encoder.state_dict())
    expected, tokens = reference.forward_features(images), encoder(images)
    torch.testing.assert_close(tokens.patches, expected[:, 1:], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(tokens.cls, expected[:, 0], rtol=1e-5, atol=1e-5)
    tapped = sentinel.build(encoder.spec.model_copy(update={"taps": (1, 2, 4)})).eval()
    tapped.load_state_dict(encoder.state_dict())
    maps = reference.forward_intermediates(images, indices=[0, 1, 3], intermediates_only=True)
    found = tapped(images)
    assert tapped.channels == (96,) * 3 and tapped.strides == (4,) * 3
    for one, other in zip(found.maps, maps, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.patches, tokens.patches)


def test_positions_on_another_grid_are_bicubic():
    encoder = sentinel.build(TINY.s2)
    grid = encoder.pos_embed[:, 1:].reshape(1, 16, 16, 96).permute(0, 3, 1, 2)
    expected = nn.functional.interpolate(grid, (2, 5), mode="bicubic", align_corners=False)
    torch.testing.assert_close(encoder.positions(2, 5)[:, 1:], expected.flatten(2).transpose(1, 2))
    assert encoder(torch.zeros(1, 10, 8, 20)).patches.shape == (1, 10, 96)


# What joins them


def test_the_up_head_lays_channels_out_side_by_side():
    head, image = fusion.UpHead(6, 4, 5), normal(2, 6, 2, 3)
    linear, found = head.conv(image), head(image)
    assert found.shape == (2, 5, 8, 12)
    for channel in range(5):
        for row in range(8):
            for column in range(12):
                source = linear[:, 16 * channel + 4 * (row % 4) + column % 4, row // 4, column // 4]
                assert torch.equal(found[:, channel, row, column], source)


def test_the_fusion_is_a_map_a_token_and_timms_blocks():
    fuse = moved(fusion.Fusion(TINY.fusion, 12))
    blocks = nn.Sequential(
        *(
            timm.models.vision_transformer.Block(
                96, 4, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=1e-5)
            )
            for _ in range(3)
        )
    ).eval()
    blocks.load_state_dict(fuse.blocks.state_dict())
    cells = normal(2, 5, 7, 12)  # (B, N, T, E)
    tokens = fuse.proj(cells.reshape(10, 7, 12))
    expected = blocks(torch.cat([fuse.token.expand(10, -1, -1), tokens], 1))[:, 0].reshape(2, 5, 96)
    found = fuse(cells, torch.ones(2, 7, dtype=torch.bool))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_order_of_what_was_seen_does_not_matter():
    fuse, cells = moved(fusion.Fusion(TINY.fusion, 12)).double(), normal(2, 5, 7, 12).double()
    present = torch.tensor([[1, 1, 0, 1, 1, 0, 1], [1] * 7], dtype=torch.bool)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    found = fuse(cells[:, :, order], present[:, order])
    torch.testing.assert_close(found, fuse(cells, present), rtol=0, atol=1e-12)
    single = fuse.float()
    one, other = single(cells.float(), present), single(cells[:, :, order].float(), present[:, order])
    assert (one - other).norm() < 1e-6 * one.norm()


def test_what_is_missing_is_as_if_it_had_never_been():
    fuse, cells = moved(fusion.Fusion(TINY.fusion, 12)), normal(2, 5, 7, 12)
    present = torch.tensor([[1, 1, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0, 0]], dtype=torch.bool)
    noisy = torch.where(present[:, None, :, None], cells, 1e3 * normal(2, 5, 7, 12, seed=2))
    found = fuse(noisy, present)
    alone = fuse(cells[:1, :, [0, 1, 3, 4]], torch.ones(1, 4, dtype=torch.bool))
    torch.testing.assert_close(found[:1], alone, rtol=1e-5, atol=1e-5)
    assert found[1].isfinite().all()
    torch.testing.assert_close(found[1], found[1, :1].expand(5, -1))  # nothing but the token itself


def test_days_of_the_year_are_the_calendars():
    first, last = date(1969, 1, 1), date(2099, 12, 31)
    days = torch.arange((first - date(1970, 1, 1)).days, (last - date(1970, 1, 1)).days + 1)
    expected = [
        min((first + timedelta(days=place)).timetuple().tm_yday - 1, 364) for place in range(len(days))
    ]
    assert fusion.day_of_year(days).tolist() == expected
    new_years_eve = torch.tensor([(date(2020, 12, 31) - date(1970, 1, 1)).days])
    assert fusion.day_of_year(new_years_eve).item() == 364


def test_a_date_adds_its_row_and_no_date_nothing():
    dates = fusion.Dates(6)
    days = torch.tensor([[(date(2021, 3, 1) - date(1970, 1, 1)).days, UNDATED]])
    found = dates(days)
    assert torch.equal(found[0, 0], dates.table[0, 59])
    assert not found[0, 1].any()


# The whole


def test_shapes_at_tiny(whole):
    """The paper's table of shapes: views of 256 and 8 pixels, 64 cells."""
    observation = seen("hr", "s2", "s1", side=8)
    encoded = whole.encoded(observation)
    assert [tuple(image.shape[1:]) for image in encoded["hr"].maps] == [
        (24, 64, 64),
        (48, 32, 32),
        (96, 16, 16),
        (192, 8, 8),
    ]
    assert encoded["s2"].patches.shape == (6, 4, 96) and encoded["s1"].patches.shape == (4, 4, 96)
    cells = whole.cells(encoded, observation)
    assert {name: tuple(found.shape) for name, found in cells.items()} == {
        "hr": (2, 64, 1, 192),
        "s2": (2, 64, 3, 192),
        "s1": (2, 64, 2, 192),
    }
    fused = whole.fused(cells, observation)
    assert fused.shape == (2, 64, 96)
    tokens = whole(observation)
    assert tokens.patches.shape == (2, 64, 192) == (2, 64, whole.width)
    assert (tokens.height, tokens.width) == (8, 8)
    assert torch.equal(tokens.patches[..., :96], fused)
    assert [image.shape[1] for image in tokens.maps] == list(whole.channels) == [24, 48, 96, 192]
    assert whole.strides == (4, 8, 16, 32) and whole.patch == 32


def test_cells_of_all_sensors_lie_on_each_other(whole):
    """What one cell sees of each sensor is what stands there: rows first, the dates apart."""
    observation = seen("hr", "s2")
    encoded = whole.encoded(observation)
    cells = whole.cells(encoded, observation)
    last, up = encoded["hr"].maps[-1], whole.up["s2"](encoded["s2"].map()).unflatten(0, (2, 3))
    for place in range(2):
        for row in range(4):
            for column in range(4):
                at = 4 * row + column
                assert torch.equal(cells["hr"][place, at, 0], last[place, :, row, column])
                for when in range(3):
                    assert torch.equal(cells["s2"][place, at, when], up[place, when, :, row, column])
    with pytest.raises(ValueError, match="32 pixels of hr are one of s2"):
        whole(Observation(
            seen("hr").images | seen("s2", side=8).images, observation.days, observation.present
        ))  # fmt: skip


def test_dates_move_with_their_images_and_matter(whole):
    observation, order = seen("s2", "s1"), torch.tensor([2, 0, 1])
    images = observation.images | {"s2": observation.images["s2"][:, order]}
    days = observation.days | {"s2": observation.days["s2"][:, order]}
    expected = whole(observation).patches
    both = whole(Observation(images, days, observation.present, observation.region)).patches
    torch.testing.assert_close(both, expected, rtol=1e-4, atol=1e-5)
    alone = whole(Observation(images, observation.days, observation.present, observation.region)).patches
    assert (alone - expected).abs().max() > 1e-3


def test_a_missing_sensor_is_as_if_there_were_none(whole):
    both, single = seen("s2", "s1"), seen("s2")
    present = both.present | {"s1": torch.zeros(2, 2, dtype=torch.bool)}
    found = whole(Observation(both.images, both.days, present, both.region)).patches
    torch.testing.assert_close(found, whole(single).patches, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="is nothing that s1 can encode"):
        st.part(whole, ("s1", "fusion"))(single)


def test_a_region_is_read_and_a_place_without_one_reads_nothing(whole):
    observation = seen("s2")
    here, nowhere = whole(observation).patches, whole(Observation(
        observation.images, observation.days, observation.present
    )).patches  # fmt: skip
    assert torch.equal(here[..., :96], nowhere[..., :96]) and not nowhere[..., 96:].any()
    expected = whole.places(here[..., :96], torch.tensor([3, 60]))
    assert torch.equal(here[..., 96:], expected) and expected.any()


def test_bare_images_are_one_undated_look_of_the_first_sensor(whole):
    encoder, images = st.part(whole, ("s1", "fusion")), normal(2, 2, 4, 4)
    expected = encoder(Observation.of("s1", images)).patches
    assert torch.equal(encoder(images).patches, expected) and encoder.patch == 1
    assert encoder.width == 96 and encoder.channels == ()
    with pytest.raises(ValueError, match="without `keep`"):
        encoder(images, torch.zeros(2, 1, dtype=torch.int64))


PARTS = [
    ("hr",), ("s2",), ("s1",), ("hr", "fusion"), ("s2", "fusion"), ("s2", "s1", "fusion"), ("hr", "s2", "fusion"),
    ("s2", "fusion", "places"), ("hr", "s2", "s1", "fusion"), ("hr", "s2", "s1", "fusion", "places"),
]  # fmt: skip


@pytest.mark.parametrize("parts", PARTS, ids="-".join)
def test_every_combination_is_an_encoder_that_is_exported_and_loaded_alone(whole, parts, tmp_path):
    encoder = st.part(whole, parts)
    loaded = load_encoder(export_encoder(encoder, tmp_path / "encoder", {"recipe": "test"}))
    assert isinstance(loaded, Encoder) and type(loaded) is type(encoder) and loaded.spec == encoder.spec
    state = encoder.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    sensors = [name for name in st.SENSORS if name in parts]
    given = seen(*sensors) if "fusion" in parts else seen(*sensors).images[sensors[0]][:, 0]
    found, expected = loaded.eval()(given), encoder(given)
    assert torch.equal(found.patches, expected.patches)
    assert found.patches.shape[-1] == loaded.width
    assert [image.shape[1] for image in found.maps] == list(loaded.channels)
    assert {encoder.layer_id(name) for name, _ in encoder.named_parameters()} == set(
        range(encoder.last_layer + (type(encoder) is swinv2.SwinV2))
    )


def test_what_makes_no_encoder_is_refused(whole):
    for parts, sentence in (
        (("s2", "s1"), "add fusion"),
        (("s2", "places"), "add fusion"),
        (("fusion",), "one sensor at least"),
        (("s2", "s3", "fusion"), "not .'s3'."),
    ):
        with pytest.raises(ValueError, match=sentence):
            st.part(whole, parts)
    with pytest.raises(ValueError, match="is one part"):
        st.part(whole.s2, ("s2",))
    with pytest.raises(ValueError, match="sees nothing"):
        st.Spec(inputs=RADAR)
    with pytest.raises(ValueError, match="set channels to that"):
        st.Spec(hr=TINY.hr, channels=100)
    with pytest.raises(ValueError, match="leave inputs out"):
        st.Spec(inputs=RADAR, s2=TINY.s2)


def test_specs_differ_where_weights_do():
    assert TINY.unlike(TINY) == []
    statistics = TINY.s2.model_copy(
        update={
            "drop_path": 0.2,
            "inputs": TINY.s2.inputs.model_copy(update={"mean": (0.0,) * 10, "std": (1.0,) * 10}),
        }
    )
    assert TINY.unlike(TINY.model_copy(update={"s2": statistics})) == []
    deeper = TINY.s2.model_copy(update={"depth": 5})
    assert TINY.unlike(TINY.model_copy(update={"s2": deeper, "s1": None, "places": None})) == [
        "places",
        "s1",
        "s2",
    ]
    assert TINY.unlike(TINY.model_copy(update={"fusion": fusion.FusionSpec(width=96, depth=4, heads=4)})) == [
        "fusion"
    ]


def test_depths_rise_from_each_sensor_to_the_end(whole):
    ids = {name: whole.layer_id(name) for name, _ in whole.named_parameters()}
    assert ids["hr.patch_embed.proj.weight"] == ids["s2.patch_embed.proj.weight"] == ids["s1.pos_embed"] == 0
    assert (
        ids["hr.layers.0.blocks.0.attn.qkv.weight"] == 1 and ids["hr.layers.3.blocks.1.attn.qkv.weight"] == 8
    )
    assert ids["hr.layers.2.downsample.reduction.weight"] == 5
    assert ids["s2.blocks.3.mlp.fc1.weight"] == 8 and ids["s2.blocks.0.mlp.fc1.weight"] == 5
    assert ids["hr.norm.weight"] == ids["up.s2.conv.weight"] == ids["dates.table"] == ids["fusion.token"] == 9
    assert ids["fusion.blocks.0.attn.qkv.weight"] == 10 and ids["fusion.blocks.2.mlp.fc2.weight"] == 12
    assert whole.last_layer == 13
    with torch.device("meta"):
        huge = swinv2.build(swinv2.huge())
    assert huge.last_layer == 25 and huge.layer_id("layers.2.blocks.17.norm3.weight") == 22


def test_every_part_learns_and_a_frozen_one_does_not():
    torch.manual_seed(0)
    encoder = moved(st.build(TINY)).train()
    encoder.s1.requires_grad_(False)
    encoder(seen("hr", "s2", "s1")).patches.square().sum().backward()
    for name, parameter in encoder.named_parameters():
        if name.startswith("s1."):
            assert parameter.grad is None, name
        elif name == "dates.table":
            assert parameter.grad.any(-1).sum() == 3  # days that occur
        else:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            assert parameter.grad.any() or "bias" in name, name


def test_what_is_sharded_or_computed_again_is_a_block(whole):
    """Not a stage of many: those of the huge one would be 430 million parameters at once."""
    sizes = [len(list(part.blocks)) for part in (whole.s2, whole.s1, whole.fusion)]
    found = parallel.blocks(whole)
    assert len(found) == sum(TINY.hr.depths) + sum(sizes)
    encoder = copy.deepcopy(whole)
    encoder(seen("hr", "s2")).patches.square().mean().backward()
    expected = {name: one.grad.clone() for name, one in encoder.named_parameters() if one.grad is not None}
    encoder.zero_grad()
    for block in parallel.blocks(encoder):
        parallel.forgetful(block, selective=False)
    encoder(seen("hr", "s2")).patches.square().mean().backward()
    for name, one in encoder.named_parameters():
        if name in expected:
            torch.testing.assert_close(one.grad, expected[name], msg=name)


def test_it_runs_in_half_precision(whole):
    with torch.autocast("cpu", torch.bfloat16):
        found = whole(seen("hr", "s2", "s1")).patches
    exact = whole(seen("hr", "s2", "s1")).patches
    assert (found.float() - exact).abs().mean() < 0.05 * exact.abs().mean()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"days": {}}, "give all three for each sensor"),
        ({"present": {"s2": torch.ones(2, 4, dtype=torch.bool)}}, r"give \(B, T, S, H, W\)"),
        ({"images": {"s2": torch.zeros(2, 10, 4, 4)}}, r"give \(B, T, S, H, W\)"),
    ],
)
def test_an_observation_fits_together(changes, sentence):
    fine = seen("s2")
    parts = {"images": fine.images, "days": fine.days, "present": fine.present}
    with pytest.raises(ValueError, match=sentence):
        Observation(**parts | changes)
