"""Self-distillation of aligned pairs: two networks look at disjoint patches of one crop and must say the same of it.

"A Contrastive Learning Foundation Model Based on Perfectly Aligned Sample Pairs for Remote Sensing Images" (PerA). One
crop, coloured twice, is cut into patches that fall into three sets: the student sees s, the teacher t, and the student
guesses the pixels of l. What both can agree on is then the ground, not a texture they share. Most patches never enter a
network, which is where its speed comes from; mask tokens for l join the student halfway. The teacher, an average of the
student, is what is kept.

Numbers are those of the released configuration (`vit_b16`). Where the paper prints others, `pera_paper` has them;
`pera_plus` mends what changes the mathematics. Nearest neighbours (KoLeo) are looked for, and centres taken, in the batch
of all ranks.

Letters: B batch, S input channels, V crops of a picture (two of them large), L patches of a large crop, M of them to
guess, D width, E bottleneck, K prototypes, P patch, U = P * P * S.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from training import crops
from training.ablation import like_pera
from training.colour import Colour, Jitter
from training.crops import JITTER, Pairs, Places
from training.encoders import learned
from training.encoders.learned import pack, unpack
from training.heads import PrototypeHead
from training.masking import disjoint_split, noise
from training.memory import Centre, Teacher
from training.methods import Losses, Method, MethodSpec, Progress
from training.objectives import (
    centred_softmax,
    collapse_signs,
    koleo,
    masked_mse,
    prototype_cross_entropy,
    soft_cross_entropy,
)
from training.recipe import Cosine, Recipe, Stream, replace
from training.reconstruction import Reconstruction, picked, reconstruction
from training.schedules import Teaching

if TYPE_CHECKING:
    from training.feed import Samples

__all__ = ["PerA", "Spec", "build"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Masks(_Part):
    """The shares of patches that student and teacher see; what is left of a large crop is guessed."""

    student: float = Field(0.2, gt=0, lt=1)
    teacher: float = Field(0.6, gt=0, lt=1)

    @model_validator(mode="after")
    def _disjoint(self) -> Masks:
        if self.student + self.teacher > 1:
            raise ValueError(
                f"student {self.student} and teacher {self.teacher} share patches: at most 1 together"
            )
        return self


class Head(_Part):
    """What sorts class tokens among prototypes; guessed pixels have one like it."""

    prototypes: int = Field(131072, gt=1)
    hidden: int = Field(2048, gt=0)
    bottleneck: int = Field(384, gt=0)


class Apart(_Part):
    """KoLeo, of the student's logits as in the released code or of its class tokens as in DINOv2; summed over both large crops."""

    weight: float = Field(0.1, ge=0)
    of: Literal["logits", "features"] = "logits"


class Pixels(_Part):
    """The guess of hidden pixels: squared errors summed over a patch's values or meant over them, then meant over patches.

    The "bounded" head has a bottleneck of unit length, so that no pixel passes its scale; "linear" is one map.
    """

    weight: float = Field(0.01, gt=0)
    over: Literal["sum", "mean"] = "sum"
    head: Literal["bounded", "linear"] = "bounded"


class Spec(MethodSpec):
    """Aligned pairs under disjoint masks. It reads the stream `scenes`; large crops have the encoder's size.

    Without `aligned` student and teacher look at crops of their own. Without `masks` both see every patch. Without
    `pixels` nothing is guessed. These are the paper's ablations (table 11).
    """

    encoder: learned.Spec
    places: Places = Places(aspect=(0.75, 1.33))
    student_colour: Colour = Colour(jitter=JITTER, p=0.8, gray=0.1, gray_order="instead")
    teacher_colour: Colour = Colour(jitter=JITTER, p=0.1)
    aligned: bool = True
    masks: Masks | None = Masks()
    head: Head = Head()
    apart: Apart = Apart()
    pixels: Pixels | None = Pixels()
    student_temperature: float = Field(0.1, gt=0)
    teaching: Teaching = Teaching(momentum=0.992, cold=0.03, warm=0.05, warming=0.15)

    @model_validator(mode="after")
    def _fit(self) -> Spec:
        if self.places.size % self.encoder.patch:
            raise ValueError(
                f"small crops of {self.places.size} pixels are not whole patches of {self.encoder.patch}: "
                f"set places.size to a multiple of {self.encoder.patch}"
            )
        if self.pixels is not None and (self.masks is None or self.masks.student + self.masks.teacher == 1):
            raise ValueError(
                "pixels are guessed where neither network looks: leave masks some, or set pixels=null"
            )
        return self


class _Network(nn.Module):
    """An encoder and its head; student and teacher are one each."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.encoder, head = learned.build(spec.encoder), spec.head
        self.head = PrototypeHead(spec.encoder.width, head.prototypes, head.hidden, head.bottleneck)

    def forward(
        self, groups: Sequence[Tensor], seen: Sequence[Tensor | None], late: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Class tokens (V * B, D) of groups of images, of each the patches that are seen.

        Tokens `late` (2B, M, D) join the first group halfway through the layers; what becomes of them comes second.
        """
        encoder, half = self.encoder, self.encoder.spec.depth // 2
        shown = [(images, keep) for images, keep in zip(groups, seen, strict=True) if len(images)]
        tokens = [encoder.with_class(encoder.embed(images, keep)) for images, keep in shown]
        packed = encoder.blocks[:half](pack(tokens))
        if late is not None:
            first, *rest = unpack(packed)
            packed = pack([torch.cat([first, late.to(first.dtype)], dim=1), *rest])
        ends = unpack(encoder.blocks[half:](packed))
        classes = encoder.norm(torch.cat([end[:, 0] for end in ends]))  # (V * B, D)
        return classes, None if late is None else encoder.norm(ends[0][:, -late.shape[1] :])


class PerA(Method):
    """Student and teacher. In evaluation crops and masks are fixed, and colours are as they are."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec, width, head = spec, spec.encoder.width, spec.head
        self.student = _Network(spec)
        self.teacher = Teacher(self.student, evaluating=True)
        self.centre = Centre(head.prototypes)
        if spec.pixels is not None:
            values = spec.encoder.patch**2 * len(spec.encoder.inputs.bands)
            self.mask_token = nn.Parameter(nn.init.normal_(torch.empty(1, 1, width), std=0.02))
            self.pixel_head = (
                nn.Linear(width, values)
                if spec.pixels.head == "linear"
                else PrototypeHead(width, values, head.hidden, head.bottleneck)
            )

    @property
    def encoder(self) -> learned.Learned:  # type: ignore[override]
        """The teacher's."""
        return self._taught.encoder

    @property
    def _taught(self) -> _Network:
        network = self.teacher.module
        assert isinstance(network, _Network)
        return network

    def forward(self, batch: Mapping[str, Samples], progress: Progress) -> Losses:
        """Cross-entropy of the student's sorting with the teacher's, KoLeo, and the squared error of hidden pixels."""
        pairs = self.pairs(batch["scenes"])
        return self.losses(pairs, [self.noise(images) for images in pairs.student], progress)

    def losses(self, pairs: Pairs, noise: Sequence[Tensor], progress: Progress) -> Losses:
        """Losses of pairs of normalised crops, whose patches fall to one side by noise (2B, L) and ((V - 2) B, L')."""
        spec, (seen, hidden, other) = self.spec, self.split(noise)
        images, late = pairs.student[0], self.masked(hidden[0])  # (2B, S, N, N), (2B, M, D)
        features, guess = self.student(pairs.student, seen, late)  # (V * B, D), (2B, M, D)
        with torch.no_grad():
            taught, _ = self._taught(pairs.teacher, other)  # (V * B, D)
        parts, rows = self.sorting(features, taught, len(images), progress)  # rows (2B, K) or (2B, D)
        apart = torch.stack([koleo(crop, whole=True) for crop in rows.chunk(2)]).sum()
        total = parts["large"] + parts["small"] + spec.apart.weight * apart
        parts["koleo"] = apart / 2
        if spec.pixels is not None and guess is not None and hidden[0] is not None:
            target = picked(images, hidden[0], self.encoder.patch)  # (2B, M, U)
            parts["pixels"] = masked_mse(self.pixel_head(guess), target)
            share = target.shape[-1] if spec.pixels.over == "sum" else 1
            total = total + spec.pixels.weight * share * parts["pixels"]
        return Losses(total, {name: part.detach() for name, part in parts.items()})

    def sorting(
        self, features: Tensor, taught: Tensor, large: int, progress: Progress
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Every crop of the student's against the same crop of the teacher's, both (V * B, D); `large` rows come first.

        The mean cross-entropy is given in what `large` and `small` crops add to it, beside signs of collapse taken of
        large crops, and with it the rows (2B, ...) that KoLeo is to spread.
        """
        spec, student, teacher = self.spec, self.student.head, self._taught.head
        directions, prototypes = student.directions(features), student.prototypes()  # (V * B, E), (K, E)
        with torch.no_grad():
            answers, sorts = teacher.directions(taught), teacher.prototypes()
            mean = answers.to(sorts.dtype).mean(0, keepdim=True)  # logits are linear in directions
            self.centre.absorb(_logits(mean, sorts), count=len(answers))
        temperature = spec.teaching.temperature(progress)

        def target(some: slice) -> Tensor:
            return centred_softmax(_logits(answers[some], sorts), self.centre.value, temperature)

        whole = prototype_cross_entropy(directions, prototypes, target, spec.student_temperature)
        logits, aim = _logits(directions[:large], prototypes), target(slice(large))  # (2B, K)
        with torch.no_grad():
            cross = soft_cross_entropy(logits / spec.student_temperature, aim)
            signs = collapse_signs(aim, features[: large // 2], self.centre.value)
            signs["divergence"] = cross - signs["teacher_entropy"]  # of the student from the teacher
        share = cross * large / len(features)
        parts = {"large": share, "small": whole - share, **signs}
        return parts, logits if spec.apart.of == "logits" else features[:large]

    def split(self, noise: Sequence[Tensor]) -> list[list[Tensor | None]]:
        """Of the large and the small crops, the patches that the student sees, guesses, and that the teacher sees.

        None, which stands for all or for none, where there are no masks; small crops are never guessed.
        """
        if self.spec.masks is None:
            return [[None] * len(noise)] * 3
        shares = self.spec.masks.student, self.spec.masks.teacher
        seen, hidden, other = zip(*(disjoint_split(each, *shares) for each in noise), strict=True)
        return [list(seen), [hidden[0] if self.spec.pixels is not None else None], list(other)]

    def masked(self, hidden: Tensor | None) -> Tensor | None:
        """Mask tokens (B, M, D) with the positions of the hidden patches (B, M) of a large crop."""
        if hidden is None:
            return None
        encoder = self.student.encoder
        return self.mask_token + encoder.positions(encoder.table_side, encoder.table_side)[0, 1 + hidden]

    def pairs(self, samples: Samples) -> Pairs:
        """Crops of a random date, coloured apart; in evaluation the first date's centres as they are."""
        spec, fixed = self.spec, not self.training
        inputs, size = spec.encoder.inputs, spec.encoder.image
        colours = spec.student_colour, spec.teacher_colour
        return crops.pairs(samples, inputs, spec.places, size, colours, aligned=spec.aligned, fixed=fixed)

    def noise(self, images: Tensor) -> Tensor:
        """Uniform noise (B, L) that shares out the patches; the same for every batch of one size in evaluation."""
        patches = (images.shape[-1] // self.spec.encoder.patch) ** 2
        return noise(len(images), patches, images.device, fixed=not self.training)

    def after_step(self, progress: Progress) -> None:
        """The centre and the teacher move, by the momentum of the step that was just made."""
        self.centre.settle()
        inertia = self.spec.teaching.inertia(Progress(progress.step - 1, progress.steps))
        self.teacher.follow(self.student, inertia)

    @torch.no_grad()
    def reconstruct(self, samples: Samples) -> Reconstruction:
        """What the student guesses of all patches it does not see, for looking at; leaves the mode as it was.

        Raises ValueError for a method that guesses no pixels.
        """
        if self.spec.pixels is None:
            raise ValueError("this PerA guesses no pixels (pixels=null), so there is nothing to reconstruct")
        was_training = self.training
        self.eval()
        images = self.pairs(samples).student[0][: len(samples)]  # (B, S, N, N)
        (seen,), (hidden,), (other,) = self.split([self.noise(images)])
        assert seen is not None and hidden is not None and other is not None  # for the spec guesses pixels
        unseen = torch.cat([hidden, other], dim=1)
        _, guess = self.student([images], [seen], self.masked(unseen))
        guess = self.pixel_head(guess).float()  # (B, L - |s|, U)
        self.train(was_training)
        return reconstruction(images, seen, unseen, guess, self.spec.encoder.inputs)


def _logits(directions: Tensor, prototypes: Tensor) -> Tensor:
    """Scores (B, K) of directions (B, E), in float32 also under autocast."""
    with torch.autocast(directions.device.type, enabled=False):
        return F.linear(directions.to(prototypes.dtype), prototypes)


def build(spec: Spec) -> PerA:
    """The method of a spec, randomly initialised."""
    return PerA(spec)


# Recipes (sec. 4.1): 200 epochs of batches of 192 with 20 of warmup; what tables 8 to 13 share is in `ablation`.


def vit_b16() -> Recipe:
    """The ablations' ViT-B/16 as its released configuration has it (`pera_official`); AID 90.1 % in tables 8, 9, 11, 12."""
    return like_pera(Spec(encoder=learned.vit_b16()))


def pera_official() -> Recipe:
    """The released configuration of ViT-B/16."""
    return vit_b16()


def pera_paper() -> Recipe:
    """What the paper prints where the released configuration differs: masks 30/20/50, weights 0.1 of mean squared error
    and 0.01 of KoLeo, which is of features."""
    return _changed(
        masks=Masks(student=0.3, teacher=0.5),
        apart=Apart(weight=0.01, of="features"),
        pixels=Pixels(weight=0.1, over="mean"),
    )


def pera_plus() -> Recipe:
    """The released configuration mended: KoLeo of features, a drop path that does not depend on the device's batch, no
    decay of tokens, positions, biases and scales, and AdamW's own epsilon."""
    encoder = replace(learned.vit_b16(), drop_path_of="samples")
    base = _changed(encoder=encoder, apart=Apart(of="features"))
    return replace(base, optim=replace(base.optim, decay="maps", eps=1e-8))


def vit_g16_1024() -> Recipe:
    """505 M, the main model, 200 epochs of RSRSD-5m, TOV-RS and Million-AID together (6,775,848 pictures)."""
    teaching = Teaching(momentum=0.998, cold=0.02, warm=0.03, warming=0.15)
    method = Spec(encoder=learned.vit_g16_1024(), teaching=teaching)
    streams = {"scenes": Stream(corpus="runs/corpora/rsrsd_tov_aid@1", layers=("hr",))}
    return replace(vit_b16(), method=method, streams=streams, steps=200 * 35290)


def rsrsd_100k() -> Recipe:
    """Table 8: pictures that nobody chose; 90.0."""
    return replace(vit_b16(), streams={"scenes": Stream(corpus="runs/corpora/rsrsd_100k@1", layers=("hr",))})


def small_head() -> Recipe:
    """Table 10 with the baselines' head, so that speeds compare."""
    return _changed(head=Head(prototypes=65536, bottleneck=256))


def alignment_only() -> Recipe:
    """Table 11: the same crop, but every patch of it for both networks; 75.7."""
    return _changed(masks=None, pixels=None)


def alignment_masks() -> Recipe:
    """Table 11: disjoint masks, nothing guessed; 84.9."""
    return _changed(pixels=None)


def masks_pixels() -> Recipe:
    """Table 11: crops of their own, masks by the same places; 89.6."""
    return _changed(aligned=False)


def vit_b14() -> Recipe:
    """Table 12: patches of 14 pixels; 90.5. Small crops of 96 pixels would not be whole patches."""
    return _changed(encoder=replace(learned.vit_b16(), patch=14), places=Places(aspect=(0.75, 1.33), size=98))


def vit_b8() -> Recipe:
    """Table 12: patches of 8 pixels; 89.3."""
    return _changed(encoder=replace(learned.vit_b16(), patch=8))


def masks_30_20_50() -> Recipe:
    """Table 13; 91.4. `vit_b16` is 20/20/60; 91.9 there."""
    return _changed(masks=Masks(student=0.3, teacher=0.5))


def masks_20_30_50() -> Recipe:
    """Table 13; 91.9."""
    return _changed(masks=Masks(student=0.2, teacher=0.5))


def masks_30_10_60() -> Recipe:
    """Table 13; 90.7."""
    return _changed(masks=Masks(student=0.3, teacher=0.6))


def _changed(**settings: object) -> Recipe:
    base = vit_b16()
    return replace(base, method=replace(base.method, **settings))


def smoke() -> Recipe:
    """The invented Earth, ten bands, which are no colours: seconds."""
    colour = Colour(jitter=Jitter(brightness=0.2, contrast=0.2, saturation=0.0, hue=0.0), p=0.8)
    method = Spec(
        encoder=learned.smoke(),
        places=Places(count=4, size=24),
        student_colour=colour,
        teacher_colour=replace(colour, p=0.1),
        head=Head(prototypes=256, hidden=64, bottleneck=32),
    )
    return Recipe(
        method=method,
        streams={"scenes": Stream(corpus="runs/corpora/smoke@1", layers=("s2",))},
        batch=16,
        steps=40,
        optim=replace(vit_b16().optim, lr_per_256=2e-3),
        schedule=Cosine(warmup=0.1, floor=1e-3, inclusive=True),
        log_every=5,
        checkpoint_every=20,
    )
