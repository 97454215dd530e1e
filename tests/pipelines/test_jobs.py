from types import SimpleNamespace

import pytest

from pipelines import jobs


class Status(str):
    def is_terminal(self):
        return self in ("SUCCEEDED", "FAILED", "STOPPED")

    @property
    def value(self):
        return str(self)


class Cluster:
    """A Ray head in memory: jobs by submission id, each with a script of (status, log so far)."""

    def __init__(self, *script, taken=None):
        self.script, self.taken = list(script), dict(taken or {})
        self.submitted, self.stopped = [], []

    def list_jobs(self):
        return [SimpleNamespace(submission_id=k, status=v, metadata={}) for k, v in self.taken.items()]

    def submit_job(self, **job):
        if job["submission_id"] in self.taken:
            raise RuntimeError("Request failed with status code 500: already exists")
        self.submitted.append(job)

    def get_job_status(self, name):
        return Status(self.script[0][0])

    def get_job_logs(self, name):
        return self.script.pop(0)[1] if len(self.script) > 1 else self.script[0][1]

    def get_job_info(self, name):
        return SimpleNamespace(message="first\nthe driver said why")

    def stop_job(self, name):
        self.stopped.append(name)


@pytest.fixture
def at(monkeypatch):
    def put(cluster):
        monkeypatch.setattr(jobs, "_client", lambda address: cluster)
        return cluster

    return put


JOB = jobs.Submission(
    key="encoder-mae.smoke-1-abc", command=("python", "-m", "training", "pretrain", "mae.smoke", "a=b c")
)


def follow(said):
    return jobs.follow(JOB, "http://head", say=said.append, every_s=0)


def test_the_log_is_followed_by_offset_each_line_once_and_whole(at):
    at(Cluster(("RUNNING", "one\ntw"), ("RUNNING", "one\ntwo\n"), ("SUCCEEDED", "one\ntwo\nthree")))
    said = []
    assert follow(said) == "swath-encoder-mae-smoke-1-abc-a1"
    assert said[1:] == ["one", "two", "three"]


def test_the_command_is_one_shell_line_with_its_arguments_quoted(at):
    cluster = at(Cluster(("SUCCEEDED", "")))
    follow([])
    assert cluster.submitted[0]["entrypoint"] == "python -m training pretrain mae.smoke 'a=b c'"


@pytest.mark.parametrize("status", ["RUNNING", "PENDING", "SUCCEEDED"])
def test_a_taken_id_is_attached_to(at, status):
    cluster = at(Cluster(("SUCCEEDED", "x\n"), taken={JOB.submission_id(1): Status(status)}))
    said = []
    follow(said)
    assert cluster.submitted == []
    assert said[0].startswith("attached to")


@pytest.mark.parametrize("status", ["FAILED", "STOPPED"])
def test_an_attempt_that_ended_badly_is_followed_by_the_next(at, status):
    cluster = at(Cluster(("SUCCEEDED", ""), taken={JOB.submission_id(1): Status(status)}))
    assert follow([]) == JOB.submission_id(2)
    assert cluster.submitted[0]["submission_id"] == JOB.submission_id(2)


def test_an_id_taken_between_the_look_and_the_call_is_attached_to(at):
    cluster = at(Cluster(("SUCCEEDED", ""), taken={JOB.submission_id(1): Status("RUNNING")}))
    cluster.list_jobs = list
    said = []
    assert follow(said) == JOB.submission_id(1)
    assert said[0].startswith("attached to")


def test_a_failed_job_says_its_last_words(at):
    at(Cluster(("FAILED", "boom\n")))
    with pytest.raises(RuntimeError, match=r"-a1 ended FAILED: the driver said why"):
        follow([])


@pytest.mark.parametrize("reason", [KeyboardInterrupt, SystemExit])
def test_whoever_is_stopped_while_following_stops_the_job(at, reason):
    cluster = at(Cluster(("RUNNING", "one\n"), ("RUNNING", "one\n")))

    def say(line):
        if line == "one":
            raise reason

    with pytest.raises(reason):
        jobs.follow(JOB, "http://head", say=say, every_s=0)
    assert cluster.stopped == [JOB.submission_id(1)]


def test_the_net_stops_only_the_living_jobs_of_its_run(at):
    cluster = at(Cluster(("RUNNING", "")))
    rows = [("a", "RUNNING", "run-1"), ("b", "SUCCEEDED", "run-1"), ("c", "RUNNING", "run-2")]
    cluster.list_jobs = lambda: [
        SimpleNamespace(submission_id=name, status=Status(status), metadata={jobs.FLOW_RUN: run})
        for name, status, run in rows
    ]
    assert jobs.stop_jobs_of("http://head", "run-1") == ["a"]
    assert cluster.stopped == ["a"]


def test_an_address_where_nobody_answers_is_one_sentence():
    from pipelines.settings import free_port

    with pytest.raises(
        ConnectionError, match=r"no Ray head answers at http://127.0.0.1:\d+ .*http://HOST:8265"
    ):
        jobs.follow(JOB, f"http://127.0.0.1:{free_port()}")
