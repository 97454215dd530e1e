"""Two processes of one group on this machine, told what torchrun tells; they stay for the next test, for torch is slow to import."""

import multiprocessing
import os
import sys
import time
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from unittest import mock

from pipelines.settings import free_port

HERE = Path(__file__).parent
RANKS = 2
PATIENCE_S = 280
_KEPT: list[tuple[BaseProcess, Connection]] = []


def launched(program: str, folder: Path, *words: str) -> None:
    """Run the text of a program on two ranks, with `words` as its arguments; its errors are this test's."""
    script = folder / "worker.py"
    script.write_text(program)
    if not _KEPT:
        _KEPT.extend(_started() for _ in range(RANKS))
    port = free_port()
    for rank, (_, pipe) in enumerate(_KEPT):
        pipe.send((str(script), rank, port, words))
    errors = _errors()
    if errors:
        for process, _ in _KEPT:
            process.kill()
            process.join()
        _KEPT.clear()
    assert not errors, "\n".join(errors)


def _errors() -> list[str]:
    """What the ranks complain of. Where one does, the others may wait for it for ever, and get five seconds."""
    left = {pipe: rank for rank, (_, pipe) in enumerate(_KEPT)}
    errors, end = [], time.monotonic() + PATIENCE_S
    while left:
        ready = wait(list(left), max(0.0, end - time.monotonic()))
        if not ready:
            return [*errors, f"ranks {list(left.values())} did not end"]
        for pipe in ready:
            assert isinstance(pipe, Connection)
            try:
                said = pipe.recv()
            except EOFError:
                said = "its process ended"
            if said:
                errors.append(f"rank {left[pipe]}: {said}")
                end = min(end, time.monotonic() + 5)
            del left[pipe]
    return errors


def _started() -> tuple[BaseProcess, Connection]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    with mock.patch.dict(os.environ, OMP_NUM_THREADS="1"):  # read when torch is imported there
        process.start()
    theirs.close()
    return process, ours


def _serve(pipe: Connection) -> None:
    """Run what is sent until nobody is there to send, and say what went wrong, or nothing."""
    sys.path[:0] = [str(HERE), str(HERE.parents[1])]
    with suppress(EOFError):
        while True:
            script, rank, port, words = pipe.recv()
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": RANKS, "LOCAL_WORLD_SIZE": RANKS}
            place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            os.environ |= {name: str(value) for name, value in place.items()}
            sys.argv = [script, *words]
            said = ""
            try:
                exec(compile(Path(script).read_text(), script, "exec"), {"__name__": "__main__"})
            except SystemExit as end:
                said = "" if not end.code else f"ended with {end.code}"
            except BaseException:
                said = traceback.format_exc()
            pipe.send(said)
