"""Protocols: how papers put an encoder to a benchmark, each a recipe named after paper and data set.

A protocol says everything but the encoder: task and head, optimizer, schedule, views, layer decay, drop path, windows.
`load("gersp_eurosat")` finds one here by its bare name; the encoder it names is what the paper used and gives way to
whichever is judged. What the papers scored, and how often they trained, is in `pipelines/published.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from training.protocols import bfm, gersp, mtp, pera, probes, samples, skysense
from training.recipe import Recipe

__all__ = ["PROTOCOLS"]

PROTOCOLS: dict[str, Callable[[], Recipe]] = {
    name: getattr(module, name)
    for module in (bfm, gersp, mtp, pera, probes, samples, skysense)
    for name in module.__all__
}
"""Name -> what makes the recipe."""
