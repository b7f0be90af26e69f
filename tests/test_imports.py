"""The import graph points one way, and heavy libraries have one owner each."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLACES = {
    "fedllm": ROOT / "fedllm",
    "fedllm.retrieval": ROOT / "retrieval",
    "fedllm.eval": ROOT / "eval",
}

LAYERS = [
    {
        "errors",
        "seeds",
        "types",
        "atomic",
        "progress",
        "program",
        "yamlfile",
        "jsontext",
        "fingerprints",
        "assets",
    },
    {
        "section",
        "faults",
        "traits",
        "catalogue",
        "method",
        "overrides",
        "config",
        "comparisons",
        "extension",
        "recipe",
    },
    {"runs", "kept", "opening"},
    {"adapters"},
    {"aggregation", "data", "privacy"},
    {"training", "server", "codecs"},
    {"engines"},
    {"retrieval", "eval"},
    {"experiment", "client"},
    {"api"},
    {"commands"},
    {"cli"},
]
"""From the bottom up: a module imports from its own layer or a lower one."""

OWNERS = {
    "peft": {"fedllm.training.model"},
    "accelerate": {"fedllm.training.local"},
    "faiss": {"fedllm.retrieval.index", "fedllm.retrieval.structure", "fedllm.retrieval.centers"},
    "sentence_transformers": {"fedllm.retrieval.encoders"},
    "datasets": {"fedllm.data.places"},
    "flwr": {"fedllm.engines.flower"},
}


@cache
def modules() -> dict[str, Path]:
    found = {}
    for package, folder in PLACES.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            found[".".join([package, *parts])] = path
    return found


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path} imports relatively"
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def layer(module: str) -> int | None:
    parts = module.split(".")
    if parts[0] != "fedllm" or len(parts) == 1:
        return None
    for number, names in enumerate(LAYERS):
        if parts[1] in names:
            return number
    return None


def test_every_module_has_a_layer():
    unknown = {name for name in modules() if layer(name) is None} - {
        "fedllm",
        "fedllm.recipes",
    }
    assert not unknown


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_point_downwards(module):
    own = layer(module)
    if own is None:
        return
    upwards = {name for name in imports(modules()[module]) if (layer(name) or 0) > own}
    assert not upwards, f"{module} imports upwards"


@pytest.mark.parametrize("library", sorted(OWNERS))
def test_a_heavy_library_has_one_owner(library):
    users = {
        module
        for module, path in modules().items()
        if any(name.split(".")[0] == library for name in imports(path))
    }
    assert users <= OWNERS[library]


@pytest.mark.parametrize("package", ["adapters", "aggregation"])
def test_the_core_needs_torch_numpy_and_safetensors_alone(package):
    allowed = {"torch", "numpy", "safetensors", "fedllm"} | set(sys.stdlib_module_names)
    allowed |= {"pydantic"}  # the settings in a catalogue.py
    for module, path in modules().items():
        if module.split(".")[1:2] == [package]:
            foreign = {name.split(".")[0] for name in imports(path)} - allowed
            assert not foreign, f"{module} imports {foreign}"


def test_help_loads_no_torch():
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from fedllm.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "heavy = {'torch', 'transformers', 'peft', 'faiss', 'sentence_transformers', 'datasets',"
        " 'matplotlib', 'accelerate', 'numpy'}\n"
        "loaded = heavy & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
