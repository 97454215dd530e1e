"""What can be known of the deployment files without a cluster: their schemas, their commands, their names.

Every command that a YAML file or a runbook tells a person to run is parsed by the program's own command line, so a
renamed option fails here and not on somebody's machine.
"""

import ast
import functools
import gzip
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
CONNECTIVES = {"&&", "||", "|", ";"}


def document(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return loaded


def schema(kind: str) -> dict[str, Any]:
    with gzip.open(ROOT / "tests" / "data" / "kuberay" / f"{kind}.json.gz") as handle:
        loaded: dict[str, Any] = json.load(handle)
    return loaded


def problems(kind: str, content: dict[str, Any]) -> list[str]:
    validator = jsonschema.Draft7Validator(schema(kind))
    return [f"{'.'.join(map(str, error.path))}: {error.message}" for error in validator.iter_errors(content)]


def test_the_ray_files_satisfy_kuberays_own_schemas():
    assert problems("rayclusters", document(DEPLOY / "ray" / "cluster.yaml")) == []
    assert problems("rayjobs", document(DEPLOY / "ray" / "job.yaml")) == []


def test_the_schemas_would_notice_a_misspelt_key():
    job = document(DEPLOY / "ray" / "job.yaml")
    job["spec"]["backOffLimit"] = job["spec"].pop("backoffLimit")
    assert problems("rayjobs", job)
    cluster = document(DEPLOY / "ray" / "cluster.yaml")
    cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["ports"][0]["containerPort"] = (
        "6379"
    )
    assert problems("rayclusters", cluster)


def tool(*words: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / words[0]
    return subprocess.run(
        [str(program), *words[1:]], capture_output=True, text=True, timeout=120, cwd=ROOT, check=False
    )


def test_the_compose_file_satisfies_the_compose_specification():
    done = tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE))
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_yaml_file_is_tidy():
    done = tool("yamllint", "--strict", "-c", "deploy/.yamllint", "deploy")
    assert done.returncode == 0, done.stdout


def test_nothing_listens_beyond_this_machine():
    for name, service in document(COMPOSE)["services"].items():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), f"{name} publishes {port} to everyone"


def test_a_ray_container_has_room_for_shared_memory():
    assert document(COMPOSE)["services"]["ray"]["shm_size"]
    for path in (DEPLOY / "ray").glob("*.yaml"):
        spec = document(path)["spec"]
        spec = spec.get("rayClusterSpec", spec)
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            pod = group["template"]["spec"]
            assert any(volume.get("emptyDir", {}).get("medium") == "Memory" for volume in pod["volumes"])
            mounts = [mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]]
            assert "/dev/shm" in mounts
            assert pod["securityContext"]["runAsNonRoot"] is True


def test_the_versions_in_the_files_are_the_locked_ones():
    lock = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    for path in (DEPLOY / "ray").glob("*.yaml"):
        spec = document(path)["spec"]
        assert spec.get("rayClusterSpec", spec)["rayVersion"] == lock["ray"]
    mlflow = document(COMPOSE)["services"]["mlflow"]["image"]
    assert mlflow.endswith(f":v{lock['mlflow-skinny']}")
    own = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert own is not None
    for path in (COMPOSE, DEPLOY / "docker" / "Dockerfile", *(DEPLOY / "ray").glob("*.yaml")):
        for version in re.findall(r"\bswath:(\d\S*)", path.read_text()):
            assert version == own[1], f"{path.name} names swath:{version}"


def test_the_image_is_locked_staged_and_not_root():
    lines = (DEPLOY / "docker" / "Dockerfile").read_text().splitlines()
    instructions = [line.split()[0] for line in lines if re.match(r"[A-Z]+ ", line)]
    assert instructions.count("FROM") == 2
    assert "USER 10001" in lines
    installs = [line for line in lines if "pip install" in line]
    assert installs
    assert all("--no-deps" in line for line in installs)
    last_stage = lines[max(number for number, line in enumerate(lines) if line.startswith("FROM ")) :]
    assert not any("pip install" in line for line in last_stage)


# -- the deployment of the flow ------------------------------------------------------------------------------------


def deployments() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = document(DEPLOY / "prefect.yaml")["deployments"]
    return found


def test_a_deployment_names_nothing_that_prefect_would_ignore():
    from prefect.cli.deploy._models import (
        ConcurrencyLimitSpec,
        DeploymentConfig,
        PrefectYamlModel,
        WorkPoolConfig,
    )

    content = document(DEPLOY / "prefect.yaml")
    PrefectYamlModel.model_validate(content)
    assert set(content) <= {*PrefectYamlModel.model_fields, "prefect-version"}
    for deployment in content["deployments"]:
        assert set(deployment) <= set(DeploymentConfig.model_fields)
        assert set(deployment["work_pool"]) <= set(WorkPoolConfig.model_fields)
        assert set(deployment["concurrency_limit"]) <= set(ConcurrencyLimitSpec.model_fields)


def test_a_schedule_is_a_cron_line_that_will_fire():
    from prefect.client.schemas.schedules import CronSchedule

    for deployment in deployments():
        for schedule in deployment["schedules"]:
            assert CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"]).cron


def test_no_two_curations_of_one_corpus_run_at_once():
    for deployment in deployments():
        assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}


def test_a_deployment_points_at_a_flow_and_fits_its_parameters():
    for deployment in deployments():
        file, name = deployment["entrypoint"].split(":")
        if not (ROOT / file).is_file():
            pytest.skip(f"no {file} yet")
        functions = {
            node.name: node
            for node in ast.parse((ROOT / file).read_text()).body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        assert name in functions, f"{file} has no flow {name}"
        flow = functions[name]
        assert any("flow" in ast.unparse(item) for item in flow.decorator_list), f"{name} is not a flow"
        positional = [*flow.args.posonlyargs, *flow.args.args]
        accepted = [argument.arg for argument in (*positional, *flow.args.kwonlyargs)]
        required = [argument.arg for argument in positional[: len(positional) - len(flow.args.defaults)]]
        assert set(deployment["parameters"]) <= set(accepted)
        assert set(required) <= set(deployment["parameters"])


# -- every command that is written down ----------------------------------------------------------------------------


def written_commands() -> Iterator[tuple[str, list[str]]]:
    """(where, words) of every swath, prefect, ray and mlflow command in the YAML files and Markdown pages."""
    compose = document(COMPOSE)
    for name, service in compose["services"].items():
        yield from simple(f"compose.yaml {name}", str(service.get("command", "")))
    yield from simple("ray/job.yaml", document(DEPLOY / "ray" / "job.yaml")["spec"]["entrypoint"])
    for path in (DEPLOY / "prefect.yaml", DEPLOY / "ray" / "cluster.yaml"):
        for line in re.findall(r"^# {2,}((?:prefect|swath|ray) .*)", path.read_text(), re.MULTILINE):
            yield from simple(path.name, line)
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", DEPLOY / "README.md"):
        for block in re.findall(r"^```sh\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                yield from simple(str(path.relative_to(ROOT)), line)


def simple(where: str, line: str) -> Iterator[tuple[str, list[str]]]:
    """The simple commands of one shell line, without `exec`, assignments and comments; `sh -c` is looked into."""
    words = shlex.split(line, comments=True)
    if words[:2] == ["sh", "-c"]:
        yield from simple(where, words[2])
        return
    current: list[str] = []
    for word in [*words, ";"]:
        if word in CONNECTIVES or word == "&":
            while current and (current[0] == "exec" or re.match(r"[A-Z_]+=", current[0])):
                current = current[1:]
            if current and current[0] in ("swath", "prefect", "ray", "mlflow"):
                yield where, current
            current = []
        else:
            current.append(word)


def click_refusal(command: Any, words: list[str]) -> str | None:
    """What a click command line says against these words, without running anything."""
    import click

    name, rest = words[0], words[1:]
    parent = None
    try:
        while hasattr(command, "resolve_command"):
            context = command.make_context(name, list(rest), parent=parent, resilient_parsing=False)
            left = [*getattr(context, "_protected_args", []), *context.args]
            if not left:
                return None
            name, command, rest = command.resolve_command(context, left)
            parent = context
        command.make_context(name, list(rest), parent=parent)
    except click.exceptions.Exit:
        return None  # --help
    except click.ClickException as refused:
        return refused.format_message()
    return None


@functools.cache
def prefect_help(*subcommands: str) -> str:
    done = tool("prefect", *subcommands, "--help")
    return done.stdout if done.returncode == 0 else ""


def prefect_refusal(words: list[str]) -> str | None:
    """Prefect's line is not click: the options must stand in the help of the longest chain of subcommands."""
    plain = []
    for word in words[1:]:
        if word.startswith("-"):
            if plain:
                break
            continue  # options of `prefect` itself
        plain.append(word)
    for length in range(min(2, len(plain)), 0, -1):
        text = prefect_help(*plain[:length])
        if text:
            missing = [
                word
                for word in words
                if word.startswith("--") and word.split("=")[0] not in text + prefect_help()
            ]
            return f"no such option: {', '.join(missing)}" if missing else None
    return "no such command"


@pytest.mark.slow
def test_every_written_command_parses_with_the_real_program():
    wrong, count = [], 0
    swath = ray = mlflow = None
    for where, words in written_commands():
        count += 1
        if words[0] == "swath":
            if not (ROOT / "pipelines" / "cli.py").is_file():
                continue
            if swath is None:
                from typer.main import get_command

                from pipelines import cli

                swath = get_command(cli.app)
            refusal = click_refusal(swath, words)
        elif words[0] == "ray":
            if ray is None:
                from ray.scripts.scripts import cli as ray
            refusal = click_refusal(ray, words)
        elif words[0] == "mlflow":
            if mlflow is None:
                from mlflow.cli import cli as mlflow
            refusal = click_refusal(mlflow, words)
        else:
            refusal = prefect_refusal(words)
        if refusal:
            wrong.append(f"{where}: {shlex.join(words)}: {refusal}")
    assert count > 10, "the commands were not found"
    assert not wrong, "\n  " + "\n  ".join(wrong)


@pytest.mark.slow
def test_the_parser_would_notice_a_misspelt_option():
    from ray.scripts.scripts import cli as ray

    assert click_refusal(ray, ["ray", "start", "--heat"])
    assert click_refusal(ray, ["ray", "start", "--head", "--num-cpus", "many"])
    assert click_refusal(ray, ["ray", "start", "--head"]) is None
    assert prefect_refusal(["prefect", "worker", "start", "--puddle", "x"])
    assert prefect_refusal(["prefect", "paint", "x"])


def test_every_environment_name_is_one_that_something_reads():
    """PREFECT_* are Prefect's own settings; RAY_*, MLFLOW_* and DO_NOT_TRACK are the engines'; the rest is ours."""
    from prefect.settings import get_current_settings

    def names(settings: Any) -> Iterator[str]:
        for name, field in type(settings).model_fields.items():
            value = getattr(settings, name)
            if hasattr(type(value), "model_fields"):
                yield from names(value)
            prefix = type(settings).model_config.get("env_prefix", "PREFECT_")
            yield (prefix + name).upper()
            alias = field.validation_alias
            for choice in getattr(alias, "choices", ()):
                yield str(choice).upper()

    prefect = set(names(get_current_settings()))
    own = ROOT / "pipelines" / "settings.py"
    read_here = own.read_text() if own.is_file() else None
    wrong = []
    for where, name in environment_names():
        if name.startswith("PREFECT_"):
            good = name in prefect
        elif name.startswith(("RAY_", "POSTGRES_")) or name in ("DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY"):
            good = True
        else:
            good = read_here is None or name in read_here
        if not good:
            wrong.append(f"{where} sets {name}, which nothing reads")
    assert not wrong, wrong


def environment_names() -> Iterator[tuple[str, str]]:
    for name, service in document(COMPOSE)["services"].items():
        yield from ((f"compose.yaml {name}", variable) for variable in service.get("environment", {}))
    for path in (DEPLOY / "ray").glob("*.yaml"):
        yield from (
            (path.name, name) for name in re.findall(r"- name: ([A-Z][A-Z_a-z]+)$", path.read_text(), re.M)
        )
    dockerfile = (DEPLOY / "docker" / "Dockerfile").read_text()
    block = re.search(r"^ENV PATH=.*?(?=^[A-Z]+ )", dockerfile, re.MULTILINE | re.DOTALL)
    assert block is not None
    for name in re.findall(r"([A-Z][A-Z_]+)=", block[0]):
        if name != "PATH" and not name.startswith("PYTHON"):
            yield "Dockerfile", name
