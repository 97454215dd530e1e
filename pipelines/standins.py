"""Stand-ins for the services that imagery comes from, kept up until interrupted, and what to type to use them."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from geodata.stubs import server
from pipelines.progress import say

MODULES = {"ee": "earth_engine", "stac": "stac", "tiles": "tiles"}
"""Name on the command line -> module of `geodata.stubs`."""


def keep_up(only: str | None, port: int, faults: str, seed: int) -> None:
    """Serve until interrupted. Raises ValueError for an unknown name, a fault script that is none, or a taken port."""
    if only is not None and only not in MODULES:
        raise ValueError(f"no stand-in is called {only!r}; there are {', '.join(MODULES)}")
    rules = server.script(faults)
    names = [only] if only else [*MODULES]
    modules = [importlib.import_module(f"geodata.stubs.{MODULES[name]}") for name in names]
    with server.serve([module.routes(seed) for module in modules], faults=rules, port=port) as stub:
        say(
            f"standing in for {', '.join(names)} at {stub.url}, world {seed}, faults: {told(faults)}; "
            f"counters at {stub.url}/stub/stats; Ctrl-C ends it"
        )
        for module in modules:
            for line in example(module, stub.url):
                print(line, flush=True)
        stub.wait()


def told(faults: str) -> str:
    """A fault script in one word."""
    return faults if faults in server.PRESETS else Path(faults).name


def example(module: ModuleType, url: str) -> list[str]:
    """What to type in another shell, as a stand-in's own `example(url)` has it."""
    return list(module.example(url)) if hasattr(module, "example") else []
