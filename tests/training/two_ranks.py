"""Two processes of one group on this machine, as torchrun starts them."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

HERE = Path(__file__).parent


def launched(program: str, folder: Path, *words: str) -> None:
    """Run the text of a program on two ranks, with `words` as its arguments; its errors are this test's.

    It runs as a function, so that what it made is let go before the interpreter ends: a thread of gloo's that then still
    holds a tensor aborts the process.
    """
    script = folder / "worker.py"
    script.write_text(f"def main():\n{textwrap.indent(program, '    ')}\nmain()\n")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            str(script),
            *words,
        ],
        env=os.environ | {"PYTHONPATH": f"{HERE}:{HERE.parents[1]}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
