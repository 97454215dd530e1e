"""Who may import whom, what importing may cost, and one place for each thing.

The promises of CONTRIBUTING.md that a reviewer would otherwise have to remember, read from the sources with `ast`.
A new dependency, a turned arrow or a second training loop shows up here as one failing sentence and, where it is
wanted, as one changed line.
"""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("geodata", "training", "pipelines")

REPORT = (
    "pipelines/report.py",
    "pipelines/card.py",
    "pipelines/page.py",
    "pipelines/charts.py",
    "pipelines/looks.py",
)

# Third-party imports and the only places (path prefixes) that may have them.
PLACES: dict[str, tuple[str, ...]] = {
    "affine": ("geodata/",),
    "blake3": ("geodata/sample.py",),
    "ee": ("geodata/sources/earth_engine_account.py",),
    "google": ("geodata/sources/earth_engine_account.py",),
    "googleapiclient": ("geodata/sources/earth_engine_account.py",),
    "httplib2": ("geodata/sources/earth_engine_account.py",),
    "jinja2": REPORT,
    "markupsafe": REPORT,
    "matplotlib": ("geodata/pictures.py", *REPORT),
    "mlflow": ("pipelines/tracking.py",),
    "numpy": ("geodata/", "training/"),
    "PIL": ("geodata/", "training/", *REPORT),
    "prefect": ("pipelines/",),
    "pyarrow": ("geodata/",),
    "pydantic": ("geodata/", "training/", "pipelines/"),
    "pyogrio": ("geodata/",),
    "pyproj": ("geodata/",),
    "rasterio": ("geodata/",),
    "ray": ("training/worker.py", "pipelines/"),
    "ray.data": ("pipelines/",),
    "ray.job_submission": ("pipelines/jobs.py",),
    "ray.train": ("training/worker.py",),
    "requests": ("geodata/transport.py", "geodata/sources/earth_engine_account.py"),
    "rich": ("pipelines/",),
    "safetensors": ("training/",),
    "segmentation_models_pytorch": ("training/decoders/deeplabv3plus.py",),
    "shapely": ("geodata/",),
    "sklearn": ("training/",),
    "simplejpeg": ("geodata/codec.py",),
    "sqlalchemy": ("pipelines/tracking.py",),
    "timm": ("training/",),
    "torch": ("training/",),
    "torchvision": ("training/",),
    "typer": ("pipelines/cli.py",),
    "xxhash": ("geodata/blobs.py",),
    "yaml": ("geodata/", "training/", "pipelines/"),
}

# What training may know of geodata: values and shards, never sources.
TRAINING_READS = (
    "sample",
    "shards",
    "manifest",
    "moments",
    "files",
    "provenance",
    "sensors",
    "codec",
    "blobs",
    "errors",
    "benchmarks",
)

# Inside a package a module imports from its own row or the rows above it.
GEODATA_ROWS = (
    ("errors", "costs", "overrides", "governor", "files", "provenance"),
    ("transport",),
    ("grid", "sensors", "codec", "blobs", "radiometry", "likeness"),
    ("source", "classes", "contamination", "landcover", "webmercator"),
    (
        "archive",
        "earth",
        "sources",
        "layout",
        "spec",
        "published",
        "continents",
        "sample",
        "moments",
        "preview",
        "quality",
    ),
    ("alignment", "census", "prices", "quotas", "lattice"),
    ("corpus", "chips", "ledger", "sites"),
    ("splits",),
    ("sampling", "choosing", "reading"),
    ("compose",),
    ("shards", "manifest"),
    ("earlier", "letters", "twins"),
    ("build", "exports", "folders", "joining", "pictures", "stubs"),
    ("intake", "maps"),
    (
        "benchmarks",
        "pilot",
    ),
    ("prepare",),
)
LEAVES = (
    "ablation",
    "feed",
    "order",
    "reading",
    "recipe",
    "schedules",
    "masking",
    "objectives",
    "ranks",
    "norms",
    "contrast",
    "synced",
    "memory",
    "heads",
    "sliding",
    "together",
    "views",
    "boxes",
    "metrics",
    "optim",
    "augment",
    "colour",
    "crops",
    "correspondence",
    "series",
    "multiview",
    "granularity",
    "distillation",
    "deformable",
    "meter",
    "parallel",
    "projection",
    "regions",
    "prototypes",
    "observation",
    "pyramid",
)
CONTRACTS = ("methods:", "tasks:", "encoders:")  # `name:` is a folder's own __init__
TRAINING_ROWS = (
    (*LEAVES, *CONTRACTS),
    ("encoders", "decoders"),
    ("weights", "tasks", "reconstruction"),
    ("checkpoint",),
    ("export",),
    ("starting",),
    ("methods", "probe", "probing"),
    ("protocols",),
    ("evaluate", "known", "mapping", "pictures", "looks", "record", "regional"),
    ("loop", "budget"),
    ("profile",),
    ("baselines",),
    ("worker",),
    ("__main__",),
)
FLOWS = ("curate", "imports", "join", "prepare", "pretrain", "transfer", "study")


@dataclass(frozen=True)
class Import:
    """One name that one file imports, fully dotted, and where it says so."""

    path: str
    line: int
    target: str
    at_import: bool

    def __str__(self) -> str:
        return f"{self.path}:{self.line} imports {self.target}"


@cache
def files(package: str) -> tuple[Path, ...]:
    return tuple(sorted((ROOT / package).rglob("*.py")))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def sources() -> Iterator[tuple[str, Path]]:
    """(path relative to the repository, path) of every module of the three packages."""
    for package in PACKAGES:
        for path in files(package):
            yield path.relative_to(ROOT).as_posix(), path


def module_name(relative: str) -> str:
    return relative.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def is_module(dotted: str) -> bool:
    place = ROOT.joinpath(*dotted.split("."))
    return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()


def imports_of(relative: str, path: Path) -> Iterator[Import]:
    """Every import of a file: `from a import b` is a.b where that is a module, else a."""
    lazy = {
        id(inner)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        for inner in ast.walk(node)
    }
    here = module_name(relative).split(".")
    if not relative.endswith("__init__.py"):
        here = here[:-1]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            parent = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{parent}.{alias.name}" for alias in node.names]
            if parent.split(".")[0] in PACKAGES:
                names = [name if is_module(name) else parent for name in names]
        else:
            continue
        for name in names:
            yield Import(relative, node.lineno, name, id(node) not in lazy)


@cache
def all_imports() -> tuple[Import, ...]:
    return tuple(found for relative, path in sources() for found in imports_of(relative, path))


def within(dotted: str, parent: str) -> bool:
    return dotted == parent or dotted.startswith(parent + ".")


def row_of(dotted: str, rows: tuple[tuple[str, ...], ...]) -> int | None:
    """The row of a module of a package; `name:` in the table is a folder's own __init__."""
    parts = dotted.split(".")[1:]
    if not parts:
        return None
    own_init = (ROOT.joinpath(*dotted.split(".")) / "__init__.py").is_file()
    for number, row in enumerate(rows):
        if len(parts) == 1 and own_init and f"{parts[0]}:" in row:
            return number
        if parts[0] in row:
            return number
    return -1


def listed(found: list[str]) -> str:
    return "\n  " + "\n  ".join(found)


def test_each_third_party_import_is_in_its_place():
    wrong = []
    for found in all_imports():
        top = found.target.split(".")[0]
        if top in sys.stdlib_module_names or top in PACKAGES:
            continue
        rules = [name for name in PLACES if within(found.target, name)]
        if not rules:
            wrong.append(f"{found}, which no line of PLACES allows: name its place there")
        elif not found.path.startswith(PLACES[max(rules, key=len)]):
            wrong.append(f"{found}, whose place is {' or '.join(PLACES[max(rules, key=len)])}")
    assert not wrong, listed(wrong)


def test_the_arrows_between_the_packages_go_one_way():
    wrong = []
    for found in all_imports():
        package, target = found.path.split("/")[0], found.target.split(".")
        if target[0] not in PACKAGES or target[0] == package:
            continue
        if PACKAGES.index(target[0]) > PACKAGES.index(package):
            wrong.append(f"{found}: {package} may not know {target[0]}")
        elif package == "training" and (len(target) < 2 or target[1] not in TRAINING_READS):
            wrong.append(f"{found}: training reads only geodata.{{{', '.join(TRAINING_READS)}}}")
    assert not wrong, listed(wrong)


@pytest.mark.parametrize(("package", "rows"), [("geodata", GEODATA_ROWS), ("training", TRAINING_ROWS)])
def test_inside_a_package_imports_go_up_the_table(package, rows):
    wrong = []
    for found in all_imports():
        source = module_name(found.path)
        if not (within(source, package) and within(found.target, package)) or source == package:
            continue
        own, other = row_of(source, rows), row_of(found.target, rows)
        if own == -1:
            wrong.append(f"{found.path} is in no row: give it one")
        elif other is None:
            wrong.append(f"{found}: name the module, not the package")
        elif own is not None and other > own:
            wrong.append(f"{found}, which stands below it")
    assert not wrong, listed(sorted(set(wrong)))


def test_methods_do_not_import_each_other_nor_the_loop_a_method():
    wrong = []
    for found in all_imports():
        if not within(found.target, "training.methods") or found.target == "training.methods":
            continue
        source = module_name(found.path)
        if source in ("training.loop", "training.recipe", "training.worker"):
            wrong.append(f"{found}: methods are found by address")
        elif within(source, "training.methods") and (source, found.target) != (
            "training.methods.finetune",
            "training.methods.mtp",
        ):
            wrong.append(f"{found}: methods never import each other")
    assert not wrong, listed(wrong)


def test_flows_do_not_import_each_other_except_the_study():
    wrong = []
    for found in all_imports():
        source, target = module_name(found.path), found.target
        if not within(source, "pipelines") or not any(within(target, f"pipelines.{flow}") for flow in FLOWS):
            continue
        if source not in ("pipelines.study", "pipelines.cli", target):
            wrong.append(f"{found}: only study and cli know the flows")
    assert not wrong, listed(wrong)


def test_no_module_imports_itself_through_another():
    edges: dict[str, set[str]] = {}
    for found in all_imports():
        if found.at_import and found.target.split(".")[0] in PACKAGES:
            edges.setdefault(module_name(found.path), set()).add(found.target)
    done: set[str] = set()

    def walk(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, "a circle of imports: " + " -> ".join([*trail[trail.index(name) :], name])
        if name in done:
            return
        for target in edges.get(name, ()):
            walk(target, (*trail, name))
        done.add(name)

    for name in list(edges):
        walk(name, ())


def test_the_loop_names_no_method():
    loop = ROOT / "training" / "loop.py"
    if not loop.is_file():
        pytest.skip("no loop yet")
    methods = [path.stem for path in (ROOT / "training" / "methods").glob("*.py") if path.stem != "__init__"]
    named = [name for name in methods if re.search(rf"\b{name}\b", loop.read_text(), re.IGNORECASE)]
    assert not named, f"training/loop.py names {named}: what a method needs goes through its contract"


def test_there_is_one_optimizer_step_and_it_is_the_loops():
    steps = []
    for relative, path in sources():
        for node in ast.walk(tree(path)):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            receiver = ast.unparse(node.func.value).lower()
            if node.func.attr == "step" and re.search(r"optim|scaler|^opt\b", receiver):
                steps.append(f"{relative}:{node.lineno} {ast.unparse(node)}")
    elsewhere = [step for step in steps if not step.startswith("training/loop.py:")]
    assert not elsewhere, "a second loop:" + listed(elsewhere)
    assert len(steps) <= 1, "the loop steps in more than one place:" + listed(steps)


# Run in a new interpreter: imports modules one by one and prints what their own lines did besides defining names.
WATCH = """
import importlib, json, sys
root, names, refused = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
own = tuple(root + "/" + package + "/" for package in ("geodata", "training", "pipelines"))
watched = {"os.putenv", "os.unsetenv", "subprocess.Popen", "os.system", "os.fork", "os.posix_spawn", "socket.connect",
           "socket.bind", "_thread.start_new_thread", "os.mkdir", "os.rename", "os.remove"}
seen = []

def hook(event, arguments):
    if event not in watched and not (event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")):
        return
    frame = sys._getframe(1)
    while frame is not None and "importlib" not in frame.f_code.co_filename:
        if frame.f_code.co_filename.startswith(own):
            seen.append(f"{frame.f_code.co_filename}:{frame.f_lineno} {event}")
            return
        frame = frame.f_back

sys.addaudithook(hook)
sys.path.insert(0, root)
for name in names:
    importlib.import_module(name)
seen += [f"{name} is imported" for name in refused if name in sys.modules]
print(json.dumps(seen))
"""


def importing(names: list[str], refused: list[str]) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", WATCH, str(ROOT), json.dumps(names), json.dumps(refused)],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "left_out", "refused"),
    [
        ("geodata", (), ["torch", "timm", "ray", "prefect", "mlflow"]),
        ("training", ("training.worker",), ["ray", "prefect", "mlflow", "rasterio.merge", "ee"]),
        ("pipelines", (), []),
    ],
)
def test_importing_is_free_of_effects_and_of_other_layers_weight(package, left_out, refused):
    names = [module_name(path.relative_to(ROOT).as_posix()) for path in files(package)]
    names = [name for name in names if name not in left_out and not name.endswith("__main__")]
    if not names:
        pytest.skip(f"no {package} yet")
    found = importing(names, refused)
    assert not found, listed(found)


@pytest.mark.parametrize("package", PACKAGES)
def test_the_name_of_a_package_alone_costs_little(package):
    if not (ROOT / package / "__init__.py").is_file():
        pytest.skip(f"no {package} yet")
    refused = ["ray", "prefect", "mlflow"] + ([] if package == "training" else ["torch"])
    found = importing([package], refused)
    assert not found, listed(found)


def test_pipelines_hold_no_maths():
    wrong = [str(found) for found in all_imports() if found.path.startswith("pipelines/")]
    wrong = [found for found in wrong if re.search(r" imports (numpy|torch|scipy|pandas)\b", found)]
    assert not wrong, listed(wrong)


@cache
def models() -> dict[str, tuple[str, ast.ClassDef]]:
    """Pydantic models of the three packages by name, found through their bases."""
    classes = {
        (relative, node.name): node
        for relative, path in sources()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ClassDef)
    }
    known = {"BaseModel"}
    found: dict[str, tuple[str, ast.ClassDef]] = {}
    grown = True
    while grown:
        grown = False
        for (relative, name), node in classes.items():
            bases = {ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases}
            if bases & known and f"{relative}:{name}" not in found:
                found[f"{relative}:{name}"] = (relative, node)
                known.add(name)
                grown = True
    return found


def test_every_field_of_every_spec_is_read_somewhere():
    read = set()
    for _, path in sources():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                read.add(node.attr)
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr" and len(node.args) > 1:
                read.add(ast.unparse(node.args[1]).strip("'\""))
    for template in (ROOT / "pipelines").glob("templates/*"):
        read.update(re.findall(r"\.(\w+)", template.read_text(encoding="utf-8")))
    unread = []
    for label, (_, node) in models().items():
        for line in node.body:
            if not (isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)):
                continue
            name, annotation = line.target.id, ast.unparse(line.annotation)
            if name.startswith("_") or annotation.startswith(("ClassVar", "Literal[")):
                continue
            if name not in read:
                unread.append(f"{label}.{name} ({annotation})")
    assert not unread, "fields that nothing reads:" + listed(unread)


def definitions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    for node in tree(path).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node


def unannotated(function: ast.FunctionDef | ast.AsyncFunctionDef, *, method: bool) -> bool:
    arguments = function.args
    given = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    given += [extra for extra in (arguments.vararg, arguments.kwarg) if extra]
    static = any(ast.unparse(item) == "staticmethod" for item in function.decorator_list)
    if method and not static:
        given = given[1:]
    return function.returns is None or any(argument.annotation is None for argument in given)


def test_public_names_say_what_they_are_for():
    wrong = []
    for relative, path in sources():
        if not ast.get_docstring(tree(path)) and path.read_text().strip():
            wrong.append(f"{relative} opens without a sentence of purpose")
        for node in definitions(path):
            if not node.name.startswith("_") and not ast.get_docstring(node):
                wrong.append(f"{relative}:{node.lineno} {node.name} has no docstring")
    assert not wrong, listed(wrong)


def test_public_signatures_are_annotated():
    wrong = []
    for relative, path in sources():
        for node in definitions(path):
            functions = [(node, False)] if not isinstance(node, ast.ClassDef) else []
            if isinstance(node, ast.ClassDef):
                functions = [
                    (item, True)
                    for item in node.body
                    if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)
                ]
            for function, method in functions:
                if not function.name.startswith("_") and unannotated(function, method=method):
                    wrong.append(f"{relative}:{function.lineno} {function.name}")
    assert not wrong, "signatures without all their types:" + listed(wrong)


def test_a_public_class_is_defined_once_in_a_package():
    places: dict[tuple[str, str], list[str]] = {}
    for relative, path in sources():
        for node in definitions(path):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and node.name != "Spec":
                key = (relative.split("/")[0], node.name)
                places.setdefault(key, []).append(f"{relative}:{node.lineno}")
    twice = [f"{name}: {', '.join(where)}" for (_, name), where in places.items() if len(where) > 1]
    assert not twice, listed(twice)


def test_no_file_names_a_machine_or_an_index():
    """Paths of one machine, folders beside the checkout and package indexes belong to whoever runs the code."""
    everywhere = re.compile(r"/work/|/root/|pypi\.org|pythonhosted|(?<!emit-)index-url|bash_jobs")
    outside_tests = re.compile(r"shared/data")
    suffixes = {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".html", ".txt", ".lock", ".cfg", ".j2", ""}
    skipped = {
        ".git",
        ".venv",
        ".venv-bench",
        "runs",
        "__pycache__",
        ".mypy_cache",
        ".ruff_cache",
        ".pytest_cache",
    }
    skipped |= {".hypothesis", "build", "dist", "swath.egg-info"}
    wrong = []
    for path in sorted(ROOT.rglob("*")):
        relative = path.relative_to(ROOT)
        if skipped & set(relative.parts) or not path.is_file() or path.suffix not in suffixes:
            continue
        if path == Path(__file__).resolve():
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if everywhere.search(line) or (relative.parts[0] != "tests" and outside_tests.search(line)):
                wrong.append(f"{relative}:{number} {line.strip()[:100]}")
    assert not wrong, listed(wrong)


def test_deploy_is_text_only():
    assert not list((ROOT / "deploy").rglob("*.py"))
