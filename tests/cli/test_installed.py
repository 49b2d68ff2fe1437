"""Installed with pip, everything works away from the checkout."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGED = ("detkd", "configs", "datasets", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that holds the installed package, made from a copy of the source."""
    folder = tmp_path_factory.mktemp("installed")
    source = tmp_path_factory.mktemp("source")
    listed = ["git", "ls-files", *PACKAGED]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True).stdout.split("\n")
    if not any(files):
        pytest.skip("not a git checkout: the source cannot be told from what was built in it")
    for file in filter(None, files):
        (source / file).parent.mkdir(parents=True, exist_ok=True)
        (source / file).write_bytes((ROOT / file).read_bytes())
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--target", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def run(installed, cwd, *argv):
    environment = os.environ | {"PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    return subprocess.run(
        [sys.executable, "-m", "detkd", *argv],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_it_is_the_installed_package_that_runs(installed, tmp_path):
    code = "import detkd; print(detkd.__file__)"
    said = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    ).stdout
    assert said.startswith(str(installed))
    assert (installed / "detkd/py.typed").is_file()


def test_every_module_is_packaged(installed):
    here = {p.relative_to(ROOT) for p in (ROOT / "detkd").rglob("*.py")}
    assert here == {p.relative_to(installed) for p in (installed / "detkd").rglob("*.py")}


def test_configs_and_cards_travel_with_it(installed, tmp_path):
    shipped = installed / "detkd/shipped_files"
    for kind in ("configs", "datasets"):
        here = {p.relative_to(ROOT / kind) for p in (ROOT / kind).glob("**/*.yaml")}
        there = {p.relative_to(shipped / kind) for p in (shipped / kind).glob("**/*.yaml")}
        assert here == there
    said = run(installed, tmp_path, "train", "--config", "configs/bccd/student.yaml")
    assert said.returncode == 2
    assert "datasets/bccd/train.json: no such file" in said.stderr


def test_commands_run_from_any_folder(installed, tmp_path):
    for command in ("synth tree --images 3", "check tree", "convert tree all.json"):
        said = run(installed, tmp_path, *command.split())
        assert said.returncode == 0, said.stdout + said.stderr
    assert (tmp_path / "all.json").is_file()
