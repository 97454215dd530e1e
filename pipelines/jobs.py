"""One command line, run here or through `ray job submit`, with its log followed and its end passed on.

The submission id is the artifact's name and fingerprint, so submitting twice is attaching: a job that still runs is
followed, one that ended well is not run again, one that failed gets the next attempt's number. Whoever follows and is
stopped (Ctrl-C, SIGTERM, a cancel in Prefect) stops the job before going; only SIGKILL leaves it running, and then
the same command attaches to it.
"""

from __future__ import annotations

import logging
import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

__all__ = ["Submission", "follow", "stop_jobs_of", "training_command"]

log = logging.getLogger(__name__)

FLOW_RUN = "prefect_flow_run_id"
ATTEMPTS = 20


@dataclass(frozen=True)
class Submission:
    """A command for a cluster: what it is called there, and what it may need from its environment."""

    key: str
    command: tuple[str, ...]
    variables: tuple[tuple[str, str], ...] = ()
    metadata: tuple[tuple[str, str], ...] = ()
    working_dir: str | None = None

    def submission_id(self, attempt: int) -> str:
        """The name of one attempt: readable, and the same for the same work."""
        return f"swath-{re.sub(r'[^A-Za-z0-9_-]+', '-', self.key)}-a{attempt}"

    @property
    def entrypoint(self) -> str:
        """The command as one shell line."""
        return shlex.join(self.command)


def follow(
    job: Submission,
    address: str,
    *,
    say: Callable[[str], None] | None = None,
    every_s: float = 1.0,
) -> str:
    """Run a job on the cluster at `address` (http://HOST:8265) to its end; its submission id.

    Log lines go to `say` as they come. Raises RuntimeError with the job's last words when it fails or was stopped,
    ConnectionError when nobody answers at the address.
    """
    client = _client(address)
    name, attached = _submit(client, job)
    speak = say or _print
    speak(f"{'attached to' if attached else 'submitted'} {name} at {address}")
    try:
        return _watch(client, name, speak, every_s)
    except BaseException as reason:
        if not _ended(client, name):
            speak(f"stopping {name} because of {type(reason).__name__}")
            client.stop_job(name)
        raise


def _client(address: str) -> JobSubmissionClient:
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConnectionError(
            f"no Ray head answers at {address} ({first}); give the address of its dashboard, http://HOST:8265"
        ) from error


def _submit(client: JobSubmissionClient, job: Submission) -> tuple[str, bool]:
    """The submission id of the attempt to follow, and whether somebody had started it before."""
    known = {found.submission_id: found.status for found in client.list_jobs()}
    for attempt in range(1, ATTEMPTS + 1):
        name = job.submission_id(attempt)
        if name in known and known[name].is_terminal() and known[name].value != "SUCCEEDED":
            continue
        if name in known:
            return name, True
        environment: dict[str, object] = {"env_vars": dict(job.variables) | {"SWATH_SUBMISSION_ID": name}}
        if job.working_dir is not None:
            environment["working_dir"] = job.working_dir
        try:
            client.submit_job(
                entrypoint=job.entrypoint,
                submission_id=name,
                runtime_env=environment,
                metadata=dict(job.metadata),
            )
        except RuntimeError as error:  # taken between the look and the call
            if "already" not in str(error):
                raise
            return name, True
        return name, False
    raise RuntimeError(
        f"{job.key} failed {ATTEMPTS} times at this cluster; look at its logs (`ray job list`) before trying again"
    )


def _watch(client: JobSubmissionClient, name: str, say: Callable[[str], None], every_s: float) -> str:
    said = 0
    while True:
        status = client.get_job_status(name)
        text = client.get_job_logs(name)
        fresh = text[said:] if status.is_terminal() else text[said : text.rfind("\n") + 1]
        for line in fresh.splitlines():
            say(line)
        said += len(fresh)
        if status.is_terminal():
            break
        time.sleep(every_s)
    if status.value != "SUCCEEDED":
        words = (client.get_job_info(name).message or "").strip().splitlines()
        raise RuntimeError(f"job {name} ended {status.value}: {words[-1] if words else 'it left no message'}")
    return name


def _ended(client: JobSubmissionClient, name: str) -> bool:
    return bool(client.get_job_status(name).is_terminal())


def stop_jobs_of(address: str, flow_run_id: str) -> list[str]:
    """Stop what a Prefect run left running at a cluster: the net below a follower that could not do it itself."""
    client = _client(address)
    stopped = []
    for found in client.list_jobs():
        if (found.metadata or {}).get(FLOW_RUN) == flow_run_id and not found.status.is_terminal():
            client.stop_job(found.submission_id)
            stopped.append(str(found.submission_id))
    return stopped


def training_command(
    verb: str, name: str, overrides: Sequence[str], options: Mapping[str, object]
) -> tuple[str, ...]:
    """`python -m training VERB NAME key=value ... --option value ...`: the same line here and on a cluster."""
    flags = [text for key, value in options.items() for text in (f"--{key}", str(value))]
    return ("python", "-m", "training", verb, name, *overrides, *flags)


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
