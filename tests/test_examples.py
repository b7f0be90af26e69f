"""Every example runs, the notebook cell by cell."""

import json
import runpy
from pathlib import Path

import pytest

from fedllm.catalogue import POINTS

EXAMPLES = Path(__file__).parents[1] / "examples"
SAID = {
    "own_rule": "of the mean update is lost",
    "own_hook": "plain: held-out loss",
    "own_retrieval_method": "LoRA-FAIR + strided items",
    "own_task": "triage",
}


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.py")))
def test_every_script_runs(name, capsys, monkeypatch):
    module = runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name=name)
    monkeypatch.setitem(__import__("sys").modules, name, _Module(module))
    module["main"]()
    assert SAID[name] in capsys.readouterr().out
    POINTS["retrieval"].own.pop("strided", None)
    POINTS["local"].own.pop("inertia", None)


class _Module:
    """What an entry of the example imports by its module's name."""

    def __init__(self, names: dict) -> None:
        self.__dict__.update(names)


def test_the_notebook_runs_cell_by_cell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((EXAMPLES / "federation.ipynb").read_text())
    assert all(not cell.get("outputs") for cell in notebook["cells"])
    names: dict = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "federation.ipynb", "exec"), names)
    assert names["longer"].summary["rounds"] == 3
    assert set(names["run"].arms) == {"base", "fedit", "full"}


def test_the_list_of_examples_names_every_file():
    listed = (EXAMPLES / "README.md").read_text()
    for path in EXAMPLES.iterdir():
        assert path.name == "README.md" or not path.is_file() or f"`{path.name}`" in listed
