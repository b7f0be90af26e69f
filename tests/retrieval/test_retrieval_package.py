"""The package's own example runs, and its names lead to what the modules define."""

import doctest
import subprocess
import sys

import fedllm.retrieval


def test_the_example_in_the_docstring_runs_as_it_stands(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    result = doctest.testmod(fedllm.retrieval)
    assert result.attempted >= 12
    assert result.failed == 0


def test_every_name_is_documented_and_importing_the_package_loads_nothing():
    for name in fedllm.retrieval.__all__:
        thing = getattr(fedllm.retrieval, name)
        assert thing.__doc__, name
    code = "import sys, fedllm.retrieval; assert not {'torch', 'faiss', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
