"""The encoder that a task starts from: from chance or from weights, in the form, with the bands and the drop path it needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

from training import encoders, weights
from training.encoders import Encoder, EncoderSpec, Inputs, adapter, hierarchy, spatiotemporal, vit, vitdet
from training.export import load_encoder

__all__ = ["Form", "dropping", "formed", "reading", "started"]

Form = Literal["own", "vitdet", "adapter", "dilated"]
"""How an encoder is put to use; `finetune.Spec` says what each means."""


def started(
    encoder: EncoderSpec | None,
    init: str | None,
    parts: tuple[str, ...],
    shaped: Callable[[EncoderSpec], EncoderSpec],
) -> Encoder:
    """An encoder from chance, or with the weights of `init` and, where it says them, its input statistics.

    `init` is a folder that was exported or a file of weights, `parts` are those put to use of an encoder of several
    sensors, `shaped` makes of its spec what is built. Raises Missing when there is no `init`, ValueError when it does not
    agree with `encoder` or, where there is none, does not say what it holds.
    """
    if init is None:
        assert encoder is not None  # whoever asks has seen to it
        return encoders.build(shaped(_some(encoder, parts)))
    bare = weights.is_file(init)
    with torch.random.fork_rng(devices=[]):  # so that a head starts alike with and without `init`
        loaded = None if bare else load_encoder(init)
    if loaded is not None and parts:
        loaded = spatiotemporal.part(loaded, parts)
    wanted = None if encoder is None else _some(encoder, parts)
    if wanted is None:
        if loaded is None:
            raise ValueError(f"{init} does not say what network it is of; give method.encoder as well")
        wanted = loaded.spec
    if loaded is not None:
        different = wanted.unlike(loaded.spec)
        if different:
            raise ValueError(
                f"the encoder in {init} has another {', '.join(different)} than method.encoder: "
                "make them agree or set method.encoder=null"
            )
        wanted = wanted.with_statistics(loaded.spec)
    made = encoders.build(shaped(wanted))
    held = weights.read(init) if loaded is None else loaded.state_dict()
    made.load_state_dict(weights.adapted(held, made))
    return made


def _some(wanted: EncoderSpec, parts: tuple[str, ...]) -> EncoderSpec:
    """The spec of the parts that are put to use; what is no encoder of several sensors is one of them already."""
    return wanted.only(parts) if parts and isinstance(wanted, spatiotemporal.Spec) else wanted


def reading(wanted: EncoderSpec, inputs: Inputs | None, reads: spatiotemporal.Reads | None) -> EncoderSpec:
    """The spec with other bands, as many: `inputs` of its one sensor, or `reads` of several. Raises ValueError."""
    if inputs is not None:
        made, asked = len(wanted.inputs.bands), len(inputs.bands)
        if made != asked:
            raise ValueError(f"the encoder reads {made} bands, method.inputs names {asked}: name as many")
        wanted = wanted.model_copy(update={"inputs": inputs})
    if reads is None:
        return wanted
    if not isinstance(wanted, spatiotemporal.Spec):
        raise ValueError(f"an encoder of kind {wanted.kind!r} has one sensor: set inputs in place of reads")
    return wanted.reading({name: read for name, read in reads if read is not None})


def dropping(wanted: EncoderSpec, drop_path: float | None) -> EncoderSpec:
    """The spec with this drop path; None leaves it. Raises ValueError for an encoder that has none."""
    if drop_path is None:
        return wanted
    if "drop_path" not in type(wanted).model_fields:
        raise ValueError(f"an encoder of kind {wanted.kind!r} has no drop path: set method.drop_path=null")
    return wanted.model_copy(update={"drop_path": drop_path})


def formed(wanted: EncoderSpec, form: Form, image: int | None) -> EncoderSpec:
    """The spec in a form, for images of `image` pixels where it asks; one that the form is not made for stays as it is."""
    if form == "vitdet" and type(wanted) is vit.Spec:
        return _windowed(wanted, image or wanted.image)
    if form == "adapter" and isinstance(wanted, vit.Spec) and not isinstance(wanted, vitdet.Spec):
        return adapter.Spec(inner=wanted, inputs=wanted.inputs, interactions=min(4, wanted.depth))
    if form == "dilated" and isinstance(wanted, hierarchy.Spec) and not wanted.name.startswith("swin"):
        return wanted.model_copy(update={"output_stride": 8})
    return wanted


def _windowed(plain: vit.Spec, image: int) -> vitdet.Spec:
    """A plain ViT as ViTDet: global layers and maps at the quarters of its depth."""
    quarters = tuple(sorted({max(1, plain.depth * part // 4) for part in (1, 2, 3, 4)}))
    fields = {name: getattr(plain, name) for name in vit.Spec.model_fields if name not in ("kind", "image")}
    return vitdet.Spec(**fields, image=image, positions=plain.image, whole=quarters, taps=quarters)
