"""Masked autoencoding: look at a quarter of an image's patches, guess the pixels of the rest.

"Masked Autoencoders Are Scalable Vision Learners" (He et al. 2022), as "A Billion-scale Foundation Model for Remote
Sensing Images" uses it to pretrain ViTs of one to four parallel branches. The encoder sees only the visible patches;
a light decoder, thrown away afterwards, puts mask tokens where the hidden ones were.

Why tokens are not put back in order: attention does not care about order, so the decoder takes the visible tokens
first and the mask tokens after them, each with the position it came from. The hidden patches are then the tail of
the sequence, and only they are turned into pixels.

Letters: B batch, S input channels, L patches, K seen, M hidden (K + M = L), P patch, V = P * P * S, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from training import augment
from training.ablation import like_pera
from training.encoders import IMAGENET_RGB, vit
from training.masking import noise, random_split
from training.methods import Crop, Losses, Method, MethodSpec, Progress
from training.objectives import masked_mse, standardise
from training.recipe import Cosine, Fsdp, Optimizer, Recipe, Stream, replace
from training.reconstruction import Reconstruction, picked, reconstruction

if TYPE_CHECKING:
    from training.feed import Samples

__all__ = ["MAE", "Decoder", "Spec", "build"]


class Decoder(BaseModel):
    """The part that is thrown away: `depth` plain layers; MAE's own are 512 wide."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(512, gt=0)
    depth: int = Field(8, gt=0)
    heads: int = Field(16, gt=0)


class Spec(MethodSpec):
    """A masked autoencoder. It reads the stream `scenes`."""

    encoder: vit.Spec
    decoder: Decoder = Decoder()
    visible: float = Field(0.25, gt=0, lt=1)  # share of patches the encoder sees
    norm_pix: bool = (
        False  # guess patches standardised one by one; the billion-scale paper guesses plain pixels
    )
    crop: Crop = (0.2, 1.0)
    resample: Literal["bilinear", "bicubic"] = "bicubic"
    down: float = Field(0.5, ge=0, le=1)  # probability of an upside-down view, beside half of them mirrored
    turn: float = Field(0.0, ge=0, le=1)  # probability of a quarter turn, which the papers do not make


class MAE(Method):
    """The autoencoder. Training views are random crops and flips; in evaluation the view and the mask are fixed."""

    encoder: vit.ViT

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec, wide, narrow = spec, spec.encoder.width, spec.decoder.width
        self.encoder = vit.build(spec.encoder)
        self.decoder_embed = nn.Linear(wide, narrow)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, narrow))
        self.decoder_pos_embed: Tensor
        table = vit.sincos_table(narrow, spec.encoder.image // spec.encoder.patch)
        self.register_buffer("decoder_pos_embed", table)  # (1, 1 + L, narrow)
        heads, depth, eps = spec.decoder.heads, spec.decoder.depth, spec.encoder.norm_eps
        layers = (vit.Block(narrow, heads, 4 * narrow, norm_eps=eps) for _ in range(depth))
        self.decoder_blocks = nn.Sequential(*layers)
        self.decoder_norm = nn.LayerNorm(narrow, eps=eps)
        self.decoder_pred = nn.Linear(narrow, spec.encoder.patch**2 * len(spec.encoder.inputs.bands))
        for part in (self.decoder_embed, self.decoder_blocks, self.decoder_pred):
            vit.initialise(part)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, batch: Mapping[str, Samples], progress: Progress) -> Losses:
        """The mean squared error of the hidden patches, as `pixels`."""
        images = self.views(batch["scenes"])  # (B, S, H, W)
        return self.losses(images, self.noise(images))

    def losses(self, images: Tensor, noise: Tensor) -> Losses:
        """Losses on normalised images (B, S, H, W) of the spec's size, masked by noise (B, L)."""
        seen, hidden = random_split(noise, self.spec.visible)  # (B, K), (B, M)
        features = self.decode(self.encode(images, seen), seen, hidden)  # (B, 1 + L, narrow)
        guess = self.pixels(features[:, 1 + seen.shape[1] :])  # (B, M, V)
        target = self.target(images, hidden)  # (B, M, V)
        if self.spec.norm_pix:
            target, _, _ = standardise(target)
        return Losses.sum(pixels=masked_mse(guess, target))

    def encode(self, images: Tensor, seen: Tensor) -> Tensor:
        """The class token and the seen patches, encoded: (B, 1 + K, D)."""
        tokens = self.encoder(images, keep=seen)
        return torch.cat([tokens.cls[:, None], tokens.patches], dim=1)

    def decode(self, tokens: Tensor, seen: Tensor, hidden: Tensor) -> Tensor:
        """Features (B, 1 + K + M, narrow): class token, then seen patches, then hidden ones, in the given orders."""
        tokens = self.decoder_embed(tokens)  # (B, 1 + K, narrow)
        masks = self.mask_token.to(tokens.dtype).expand(*hidden.shape, -1)  # (B, M, narrow)
        places = torch.cat([torch.zeros_like(seen[:, :1]), 1 + seen, 1 + hidden], dim=1)  # (B, 1 + L)
        tokens = torch.cat([tokens, masks], dim=1) + self.decoder_pos_embed[0, places]
        return self.decoder_blocks(tokens)

    def pixels(self, features: Tensor) -> Tensor:
        """Features (B, N, narrow) to guessed pixels (B, N, V), row, column, then channel."""
        return self.decoder_pred(self.decoder_norm(features))

    def target(self, images: Tensor, hidden: Tensor) -> Tensor:
        """The pixels (B, M, V) of the hidden patches, row, column, then channel."""
        return picked(images, hidden, self.encoder.patch)

    def views(self, samples: Samples) -> Tensor:
        """Normalised views (B, S, H, W) of the spec's size.

        In training a random date, crop, flip and turn; else the first date's centre.
        """
        spec, inputs, size = self.spec, self.spec.encoder.inputs, self.spec.encoder.image
        if not self.training:
            return _centre(augment.prepare(samples, inputs), size)
        images = augment.pixels(samples, inputs, augment.any_date(samples, inputs.layer))
        count, height, width = len(images), *images.shape[-2:]
        view = augment.draw_views(
            count, height, width, spec.crop, down=spec.down, turn=spec.turn, device=images.device
        )
        return augment.normalise(augment.render(images, view, size, mode=spec.resample), inputs)

    def noise(self, images: Tensor) -> Tensor:
        """Uniform noise (B, L) that orders the patches; the same for every batch of one size in evaluation."""
        patches = (self.spec.encoder.image // self.spec.encoder.patch) ** 2
        return noise(len(images), patches, images.device, fixed=not self.training)

    @torch.no_grad()
    def reconstruct(self, samples: Samples) -> Reconstruction:
        """What the model guesses behind the evaluation mask, for looking at; leaves the mode as it was."""
        was_training = self.training
        self.eval()
        images = self.views(samples)  # (B, S, H, W)
        seen, hidden = random_split(self.noise(images), self.spec.visible)
        features = self.decode(self.encode(images, seen), seen, hidden)
        guess = self.pixels(features[:, 1 + seen.shape[1] :]).float()  # (B, M, V)
        self.train(was_training)
        if self.spec.norm_pix:
            _, mean, deviation = standardise(self.target(images, hidden))
            guess = guess * deviation + mean
        return reconstruction(images, seen, hidden, guess, self.spec.encoder.inputs)


def _centre(images: Tensor, size: int) -> Tensor:
    """The central `size` x `size` pixels; refused when there are not so many."""
    height, width = images.shape[-2:]
    if min(height, width) < size:
        raise ValueError(
            f"chips of {height} x {width} pixels are too small for views of {size}: lower encoder.image"
        )
    top, left = (height - size) // 2, (width - size) // 2
    return images[..., top : top + size, left : left + size]


def build(spec: Spec) -> MAE:
    """The method of a spec, randomly initialised."""
    return MAE(spec)


# Recipes. The billion-scale paper (sec. III and IV, table II): Million-AID, 400 epochs of 488 steps, 10 % of them
# warmup, AdamW as in MAE; crops and both flips, normalised by ImageNet's statistics.


def vit_b12x1() -> Recipe:
    """86 M. The paper took these weights from RVSA, which trained for 1600 epochs with 40 of warmup."""
    return Recipe(
        method=Spec(encoder=vit.vit_b12x1(IMAGENET_RGB)),
        streams={"scenes": Stream(corpus="runs/corpora/million_aid@1", layers=("hr",))},
        batch=2048,
        steps=1600 * 488,
        optim=Optimizer(lr_per_256=1.5e-4, weight_decay=0.05, betas=(0.9, 0.95)),
        schedule=Cosine(warmup=0.025),
        precision="bf16",
    )


def rvsa_b() -> Recipe:
    """86 M, as RVSA made the weights that the paper starts from: no view is upside down."""
    return replace(vit_b12x1(), method=Spec(encoder=vit.vit_b12x1(IMAGENET_RGB), down=0.0))


def vit_l12x4() -> Recipe:
    """605 M in 12 layers of four branches."""
    method = Spec(encoder=vit.l12x4(IMAGENET_RGB))
    return replace(vit_b12x1(), method=method, steps=400 * 488, schedule=Cosine(warmup=0.1))


def vit_h12x4() -> Recipe:
    """1.36 B, sharded."""
    return replace(vit_l12x4(), method=Spec(encoder=vit.h12x4(IMAGENET_RGB)), parallel=Fsdp())


def vit_g12x4() -> Recipe:
    """2.42 B. The paper lowers the rate here: 1.5e-4 did not converge."""
    base = vit_h12x4()
    return replace(
        base, method=Spec(encoder=vit.g12x4(IMAGENET_RGB)), optim=replace(base.optim, lr_per_256=1e-4)
    )


def as_pera_repo() -> Recipe:
    """ViT-B/16 as PerA's repository trains it for table 9: crops of 448 pixels, PerA's optimizer, one flip; 84.9."""
    encoder = replace(vit.vit_b12x1(IMAGENET_RGB), image=448, norm_eps=1e-5)
    return like_pera(Spec(encoder=encoder, crop=(0.4, 1.0), down=0.0))


def demo() -> Recipe:
    """Real Sentinel-2 of one winter's day, 13 bands at 10 m, on a laptop's processor in a minute and a half.

    Crops stay near the chip's own scale, at which it will be mapped: there is only one sensor and one GSD.
    """
    return Recipe(
        method=Spec(
            encoder=vit.demo(), decoder=Decoder(width=64, depth=1, heads=4), crop=(0.6, 1.0), turn=0.5
        ),
        streams={"scenes": Stream(corpus="runs/corpora/demo@1", layers=("s2",))},
        batch=64,
        steps=600,
        optim=Optimizer(lr_per_256=2e-2, clip=1.0),
        schedule=Cosine(warmup=0.1),
    )


def smoke() -> Recipe:
    """The invented Earth, ten bands, two branches a layer: seconds."""
    return Recipe(
        method=Spec(encoder=vit.smoke(), decoder=Decoder(width=64, depth=1, heads=4), turn=0.5),
        streams={"scenes": Stream(corpus="runs/corpora/smoke@1", layers=("s2",))},
        batch=16,
        steps=40,
        optim=Optimizer(lr_per_256=1.6e-2),
        schedule=Cosine(warmup=0.1),
        log_every=5,
        checkpoint_every=20,
    )
