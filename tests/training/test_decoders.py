"""Decoders against other implementations and against their definitions in loops."""

from itertools import product

import pytest
import torch
from segmentation_models_pytorch import DeepLabV3Plus
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
from torch import Tensor, nn
from torchvision.models.segmentation.fcn import FCNHead

from training import decoders
from training.decoders import bit, deeplabv3plus, fcn, growing, psanet, pyramid, siamese_unet, upernet
from training.encoders import Inputs, build, hierarchy, vit, vitdet
from training.pyramid import Deepest, Ends, Levels

RGB = Inputs(layer="hr", bands=("R", "G", "B"))
STRIDES = (4, 8, 16, 32)


def levels(channels: tuple[int, ...], side: int = 16, batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    sides = [side >> scale for scale in range(len(channels))]
    return [
        torch.randn(batch, width, size, size, generator=generator)
        for width, size in zip(channels, sides, strict=True)
    ]


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def in_order(ours: nn.Module, theirs: nn.Module, pairs: dict[str, str]) -> None:
    """Load our parameters and statistics into their module, part by part, in the order both list them."""
    for mine, other in pairs.items():
        source, sink = ours.get_submodule(mine).state_dict(), theirs.get_submodule(other).state_dict()
        assert [v.shape for v in source.values()] == [v.shape for v in sink.values()], (mine, other)
        theirs.get_submodule(other).load_state_dict(dict(zip(sink, source.values(), strict=True)))


def stirred(module: nn.Module) -> nn.Module:
    """With batch norms that do something in evaluation."""
    torch.manual_seed(0)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for values, low in (
                (norm.weight, 0.5),
                (norm.bias, -0.5),
                (norm.running_mean, -0.5),
                (norm.running_var, 0.5),
            ):
                nn.init.uniform_(values, low, low + 1)
    return module.eval()


def test_upernet_is_another_implementations_but_for_its_norms_of_the_input():
    """segmentation-models-pytorch puts a norm on each input: 2 * 4 * 768 parameters more, the rest is the same."""
    ours = upernet.build(upernet.Spec(channels=256), (768,) * 4, STRIDES, 5)
    theirs = UPerNetDecoder((0, 0, 768, 768, 768, 768), decoder_channels=256)
    assert count(ours) - count(ours.classify) == 9_639_936
    assert count(theirs) == 9_646_080 == 9_639_936 + 2 * 4 * 768


def test_upernet_gives_another_implementations_numbers():
    channels = (6, 8, 10, 12)
    ours = stirred(upernet.build(upernet.Spec(channels=16), channels, STRIDES, 5))
    theirs = UPerNetDecoder((0, 0, *channels), decoder_channels=16).eval()
    theirs.feature_norms = nn.ModuleList(nn.Identity() for _ in channels)
    in_order(ours, theirs, {"context": "psp.out_conv", "fuse": "fusion_block"})
    for scale in range(4):
        in_order(ours, theirs, {f"pools.{scale}.1": f"psp.blocks.{scale}.1"})
    for scale in range(3):
        in_order(ours, theirs, {f"lateral.{scale}": f"fpn_lateral_blocks.{2 - scale}"})
        in_order(ours, theirs, {f"smooth.{scale}": f"fpn_conv_blocks.{2 - scale}"})
    maps = levels(channels)
    wanted = theirs([maps[0], maps[0], *maps])
    torch.testing.assert_close(ours.fused(maps), wanted, rtol=1e-5, atol=1e-6)
    assert ours(maps).shape == (2, 5, 16, 16)


def test_upernets_last_map_may_be_narrower():
    decoder = upernet.build(upernet.Spec(channels=16, out=8), (6,) * 4, STRIDES, 5)
    assert decoder.fused(levels((6,) * 4)).shape == (2, 8, 16, 16)


def test_fcn_is_torchvisions():
    ours = stirred(fcn.build(fcn.Spec(channels=8), (32,), (16,), 3))
    theirs = FCNHead(32, 3).eval()
    theirs.load_state_dict(ours.head.state_dict())
    (image,) = levels((32,))
    torch.testing.assert_close(ours([image]), theirs(image))
    wide = fcn.build(fcn.Spec(), (768,), (16,), 5)
    assert wide.head[0].weight.shape == (256, 768, 3, 3)


@pytest.mark.parametrize(("height", "width", "side"), [(3, 4, 7), (5, 4, 3), (4, 4, 15)])
def test_a_mask_is_cut_as_it_is_defined(height, width, side):
    masks = torch.randn(2, side * side, height, width)
    wanted = torch.zeros(2, height * width, height * width)
    positions = list(product(range(height), range(width)))
    for i, (row, column) in enumerate(positions):
        for j, (other_row, other_column) in enumerate(positions):
            down, right = other_row - row + side // 2, other_column - column + side // 2
            if 0 <= down < side and 0 <= right < side:
                wanted[:, j, i] = masks[:, down * side + right, row, column]
    assert torch.equal(psanet.cut(masks), wanted)


def test_psanet_collects_and_distributes_as_it_is_defined():
    spec = psanet.Spec(channels=4, mask=9, shrink=2)
    decoder = stirred(psanet.build(spec, (6,), (8,), 3))
    image = torch.randn(1, 6, 6, 8)
    small = [
        nn.functional.interpolate(way.reduce(image), (3, 4), mode="bilinear")
        for way in (decoder.collect, decoder.distribute)
    ]
    found = []
    for way, values in zip((decoder.collect, decoder.distribute), small, strict=True):
        masks, out = way.attend(values)[0], torch.zeros(4, 3, 4)
        places = list(product(range(3), range(4)))

        def entry(position: tuple[int, int], other: tuple[int, int], masks: Tensor = masks) -> Tensor:
            """How much the mask around `position` says of `other`."""
            down, right = other[0] - position[0] + 4, other[1] - position[1] + 4
            return masks[down * 9 + right, position[0], position[1]]

        for here in places:
            if way is decoder.collect:
                logits = torch.stack([entry(here, other) for other in places])
            else:
                logits = torch.stack([entry(other, here) for other in places])
            for share, other in zip(logits.softmax(0), places, strict=True):
                out[:, here[0], here[1]] += share * values[0, :, other[0], other[1]]
        found.append(out)
    both = nn.functional.interpolate(torch.cat(found)[None], (6, 8), mode="bilinear")
    wanted = decoder.classify(decoder.fuse(torch.cat([image, decoder.project(both)], dim=1)))
    torch.testing.assert_close(decoder([image]), wanted, rtol=1e-5, atol=1e-6)


def test_psanet_has_the_published_masks():
    way = psanet._Way(psanet.Spec(), 2048)
    assert way.attend[1].weight.shape == (97 * 97, 512, 1, 1)
    with pytest.raises(ValueError, match="its side is odd, not 8"):
        psanet.Spec(mask=8)


def test_deeplab_is_the_librarys_over_a_network_that_keeps_its_stride():
    theirs = DeepLabV3Plus(
        "resnet18", encoder_weights=None, encoder_output_stride=8, decoder_channels=16, classes=5
    )
    stirred(theirs)
    encoder = build(hierarchy.Spec(inputs=RGB, name="resnet18", output_stride=8))
    head = decoders.build(deeplabv3plus.Spec(channels=16), encoder, 5).eval()
    assert encoder.strides == (4, 8, 8, 8)
    head.decoder.body.load_state_dict(theirs.decoder.state_dict())
    head.decoder.classify.load_state_dict(theirs.segmentation_head[0].state_dict())
    images = torch.randn(1, 3, 64, 96)
    features = theirs.encoder(images)
    logits = head.decoder([features[2], features[-1]])
    wanted = nn.functional.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=True)
    torch.testing.assert_close(theirs(images), wanted)


def test_a_network_that_keeps_its_stride_has_the_same_weights():
    torch.manual_seed(0)
    plain = build(hierarchy.Spec(inputs=RGB, name="resnet18")).eval()
    kept = build(hierarchy.Spec(inputs=RGB, name="resnet18", output_stride=8)).eval()
    assert kept.spec.unlike(plain.spec) == []
    kept.load_state_dict(plain.state_dict())
    image = torch.randn(1, 3, 64, 64)
    wide, narrow = kept(image).maps, plain(image).maps
    assert [tuple(one.shape[-2:]) for one in wide] == [(16, 16), (8, 8), (8, 8), (8, 8)]
    torch.testing.assert_close(wide[1], narrow[1])
    with pytest.raises(ValueError, match="is for residual networks"):
        hierarchy.Spec(inputs=RGB, name="swin_tiny_patch4_window7_224", output_stride=8)


def test_bit_has_the_published_size():
    """3.50 M with the stages of ResNet-18 it uses; 0.7 M of them its own."""
    encoder = build(hierarchy.Spec(inputs=RGB, name="resnet18", output_stride=8))
    head = decoders.build(bit.Spec(), encoder, 2)
    assert head.maps.channels == (256,) and head.maps.strides == (8,)
    used = sum(p.numel() for name, p in encoder.named_parameters() if "layer4" not in name)
    assert count(head) == 712_994
    assert count(head) + used == 3_495_778


def test_bit_is_what_its_paper_says_in_loops():
    spec = bit.Spec(channels=4, tokens=2, decoders=2, heads=2, head_channels=3, hidden=5)
    decoder = stirred(bit.build(spec, (6,), (8,), 2)).double()
    pair = torch.randn(2, 6, 2, 3, dtype=torch.float64)
    maps = decoder.reduce(nn.functional.interpolate(pair, scale_factor=2, mode="bilinear"))
    tokens = []
    for image in maps:
        for token in range(2):
            weights = torch.einsum("c,chw->hw", decoder.attend.weight[token, :, 0, 0], image)
            weights = weights.exp() / weights.exp().sum()
            tokens.append(sum(weights[r, c] * image[:, r, c] for r in range(4) for c in range(6)))
    tokens = torch.stack(tokens) + decoder.places[0]

    def layer(part: nn.Module, queries: Tensor, told: Tensor) -> Tensor:
        out = []
        for query in queries:
            mixed = []
            for head in (slice(0, 3), slice(3, 6)):
                asks = part.query.weight[head] @ part.norm1(query)
                keys, values = (
                    part.norm1(told) @ part.key.weight[head].T,
                    part.norm1(told) @ part.value.weight[head].T,
                )
                share = torch.stack([asks @ key * 4**-0.5 for key in keys]).softmax(0)
                mixed.append(sum(weight * value for weight, value in zip(share, values, strict=True)))
            seen = query + part.proj(torch.cat(mixed))
            out.append(seen + part.mlp(part.norm2(seen)))
        return torch.stack(out)

    tokens = layer(decoder.encoder[0], tokens, tokens)
    dates = []
    for image, own in zip(maps, tokens.split(2), strict=True):
        cells = image.flatten(1).T
        for part in decoder.decoder:
            cells = layer(part, cells, own)
        dates.append(cells.T.unflatten(1, (4, 6)))
    apart = (dates[0] - dates[1]).abs()[None]
    wanted = decoder.classify(nn.functional.interpolate(apart, scale_factor=4, mode="bilinear"))
    torch.testing.assert_close(decoder([pair]), wanted)


def test_the_siamese_unet_is_another_implementations_unet_over_differences():
    channels = (4, 6, 8, 10)
    ours = stirred(siamese_unet.build(siamese_unet.Spec(channels=(16, 8, 6, 4)), channels, STRIDES, 2))
    theirs = UnetDecoder((3, *channels), (16, 8, 6, 4), n_blocks=4).eval()
    for stage in range(4):
        for half in range(2):
            in_order(ours, theirs, {f"stages.{stage}.mix.{half}": f"blocks.{stage}.conv{half + 1}"})
    maps = levels(channels, batch=4)
    apart = [(scale[::2] - scale[1::2]).abs() for scale in maps]
    body = theirs([torch.zeros(2, 3, 32, 32), *apart])  # (2, 4, 32, 32)
    wanted = ours.classify(nn.functional.interpolate(body, scale_factor=2, mode="bilinear"))
    torch.testing.assert_close(ours(maps), wanted)
    assert wanted.shape == (2, 2, 64, 64)
    published = siamese_unet.build(siamese_unet.Spec(), (768,) * 4, STRIDES, 2)
    assert [stage.mix[1][0].out_channels for stage in published.stages] == [512, 256, 128, 64]


def test_scales_of_any_size_meet_in_the_siamese_unet():
    decoder = siamese_unet.build(siamese_unet.Spec(channels=(8, 8, 8, 8)), (4,) * 4, STRIDES, 2).eval()
    odd = [torch.randn(2, 4, side, side) for side in (15, 8, 4, 2)]
    assert decoder(odd).shape == (1, 2, 64, 64)


def test_the_order_of_the_dates_does_not_matter_to_change():
    maps = levels((6,) * 4, batch=2)
    for spec in (bit.Spec(), siamese_unet.Spec(channels=(8, 8, 8, 8))):
        decoder = stirred(
            bit.build(spec, (6,), (4,), 2)
            if isinstance(spec, bit.Spec)
            else siamese_unet.build(spec, (6,) * 4, STRIDES, 2)
        )
        if isinstance(spec, bit.Spec):
            nn.init.zeros_(decoder.places)  # what tells the dates apart
            maps = maps[:1]
        swapped = [scale.flip(0) for scale in maps]
        torch.testing.assert_close(decoder(maps), decoder(swapped))
        maps = levels((6,) * 4, batch=2)


def test_summed_scales_are_a_sum_of_each_alone():
    decoder = pyramid.build(pyramid.Spec(channels=8), (4, 6), (4, 8), 3)
    maps = [torch.randn(1, 4, 8, 8), torch.randn(1, 6, 4, 4)]
    scales = [part(image) for part, image in zip(decoder.lateral, maps, strict=True)]
    grown = nn.functional.interpolate(scales[1], (8, 8), mode="bilinear")
    torch.testing.assert_close(decoder(maps), decoder.classify(scales[0] + grown))


def test_every_encoder_is_brought_to_four_scales():
    plain = vit.Spec(inputs=RGB, image=64, patch=16, width=16, depth=4, heads=2)
    windows = vitdet.Spec(
        inputs=RGB, image=64, patch=16, width=16, depth=4, heads=2, whole=(2, 4), taps=(1, 2, 3, 4)
    )
    shrinking = hierarchy.Spec(inputs=RGB, name="resnet10t")
    images = torch.randn(1, 3, 64, 64)
    for spec in (plain, windows, shrinking):
        encoder = build(spec)
        scales = Levels(encoder)
        maps = scales(encoder(images))
        assert [tuple(one.shape[1:]) for one in maps] == [
            (width, 64 // stride, 64 // stride)
            for width, stride in zip(scales.channels, scales.strides, strict=True)
        ]
        assert scales.strides == STRIDES
    with pytest.raises(ValueError, match="not 2; change the encoder's taps"):
        Levels(build(windows.model_copy(update={"taps": (2, 4)})))


def test_one_map_is_the_deepest_or_that_of_a_stage():
    images = torch.randn(1, 3, 64, 64)
    shrinking = build(hierarchy.Spec(inputs=RGB, name="resnet10t")).eval()
    tokens = shrinking(images)
    for stage in (1, 3, 4):
        source = Deepest(shrinking, stage)
        (found,) = source(tokens)
        assert torch.equal(found, tokens.maps[stage - 1])
        assert (found.shape[1], 64 // found.shape[2]) == (*source.channels, *source.strides)
    plain = build(vit.Spec(inputs=RGB, image=64, patch=16, width=16, depth=2, heads=2)).eval()
    (found,) = Deepest(plain, 3)(plain(images))
    assert torch.equal(found, plain(images).map())


def test_the_two_ends_are_a_fine_and_a_deep_map():
    images = torch.randn(1, 3, 64, 64)
    shrinking = build(hierarchy.Spec(inputs=RGB, name="resnet10t", output_stride=8)).eval()
    source, tokens = Ends(shrinking), shrinking(images)
    assert [torch.equal(*pair) for pair in zip(source(tokens), tokens.maps[::3], strict=True)] == [True, True]
    assert source.strides == (4, 8) and source.channels == (64, 512)
    plain = build(vit.Spec(inputs=RGB, image=64, patch=16, width=16, depth=2, heads=2)).eval()
    source, tokens = Ends(plain), plain(images)
    fine, deep = source(tokens)
    assert source.strides == (4, 16) and fine.shape == (1, 16, 16, 16)
    assert torch.equal(deep, tokens.map())


def test_strides_a_decoder_cannot_read_are_refused():
    with pytest.raises(ValueError, match="patch of 14 pixels must be a power of two"):
        growing.build(growing.Spec(), (8,), (14,), 2)
    with pytest.raises(ValueError, match="not 64: change the patch"):
        deeplabv3plus.build(deeplabv3plus.Spec(), (8, 8), (4, 64), 2)
