"""`swath stub` as a person starts it: what it prints works, and Ctrl-C ends it."""

import os
import re
import signal
import subprocess
import sys

import pytest
import requests

pytestmark = pytest.mark.integration


def started(*options):
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", "stub", "--port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def test_the_stand_ins_say_what_to_set_count_and_end_on_interrupt():
    with started("--faults", "full") as process:
        told = process.stderr.readline()
        assert "ee, stac, tiles" in told and "faults: full" in told
        url = re.search(r"http://127\.0\.0\.1:\d+", told)[0]
        first = process.stdout.readline()
        assert f"EARTHENGINE_URL={url}" in first
        assert process.stdout.readline().startswith("swath curate smoke ")
        seen = requests.get(f"{url}/$discovery/rest", params={"version": "v1"}, timeout=10)
        assert seen.status_code in (200, 429, 500, 503)
        assert requests.get(f"{url}/stub/stats", timeout=10).json()["requests"] == {"ee discovery": 1}
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130


def test_an_unknown_stand_in_or_script_is_refused_in_a_sentence():
    for options in (("--only", "mars"), ("--faults", "every")):
        with started(*options) as process:
            _, told = process.communicate(timeout=60)
        assert process.returncode == 2 and len(told.strip().splitlines()) == 1 and options[1] in told
