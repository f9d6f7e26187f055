"""The notebook runs to its end, and the Dockerfile installs what it copies."""

import os
import re
import shutil
import sys

import pytest
from conftest import ROOT

NOTEBOOK = ROOT / "notebooks/packnet.ipynb"


@pytest.mark.slow
def test_the_notebook_runs_to_its_end(tmp_path, monkeypatch):
    """On the CPU, from a copy of the project: the doctor, the demo, an added task, all pictures."""
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    kept = shutil.ignore_patterns(".*", "data", "checkpoints", "__pycache__")
    shutil.copytree(ROOT, tmp_path / "packnet", ignore=kept)
    monkeypatch.setenv("PATH", f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    where = {"metadata": {"path": str(tmp_path / "packnet/notebooks")}}
    client.NotebookClient(notebook, timeout=1500, resources=where).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    said = "".join(output.get("text", "") for output in outputs)
    pictures = sum("image/png" in output.get("data", {}) for output in outputs)
    made = list((tmp_path / "packnet/checkpoints").glob("*/plots/*.png"))
    assert pictures == len(made) > 6
    assert "seals unchanged" in said and "demo_flowers" in said and "my_shapes" in said


def test_the_dockerfile_installs_what_it_copies():
    text = (ROOT / "Dockerfile").read_text()
    copied = re.search(r"^COPY (requirements.*) \./$", text, re.MULTILINE)[1].split()
    read = [name for name in copied if f"-r {name}" in text]
    for name in read:  # and what these read in turn
        read += re.findall(r"^-r (\S+)$", (ROOT / name).read_text(), re.MULTILINE)
    assert sorted(read) == sorted(copied) and all((ROOT / name).is_file() for name in copied)
    pinned = re.findall(r"jittor==[\d.]+", text)
    assert pinned == [re.search(r"jittor==[\d.]+", (ROOT / "requirements.txt").read_text())[0]]
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {"data", "checkpoints/*", ".git"} <= set(ignored)
