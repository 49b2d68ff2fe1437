"""Imports go down only; what is heavy comes late."""

import ast
import configparser
import subprocess
import sys
from pathlib import Path

import pytest

import detkd

ROOT = Path(detkd.__file__).parent
GROUND = {"data", "models", "evaluation"}
MAY_IMPORT = {
    "data": set(),
    "models": set(),
    "evaluation": set(),
    "distill": {"models"},
    "engine": {"distill"} | GROUND,
    "deploy": {"distill"} | GROUND,
    "cli": {"engine", "deploy", "distill"} | GROUND,
    "__main__": {"cli"},
}
ALONE = {"numpy", "PIL", "cv2", "detkd.deploy.counting"}  # beside the standard library
HEAVY = ("torch", "torchvision", "albumentations", "matplotlib", "pycocotools", "cv2", "timm")


def floor_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "detkd" and parts[1] in MAY_IMPORT else None


def imports_of(path: Path, *, top_only: bool = False):
    tree = ast.parse(path.read_text())
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down_only(path):
    here = floor_of("detkd." + ".".join(path.relative_to(ROOT).with_suffix("").parts))
    for module in imports_of(path):
        there = floor_of(module)
        if there is None or there == here:
            continue
        assert here is not None, f"{path.name} lies under every floor and imports {module}"
        assert there in MAY_IMPORT[here], f"{here} must not import {module}"


def test_what_travels_with_an_export_imports_nothing_else_of_detkd():
    for path in (ROOT / "deploy" / "counting").glob("*.py"):
        for module in imports_of(path):
            known = {module.split(".")[0], ".".join(module.split(".")[:3])}
            assert known & (ALONE | sys.stdlib_module_names), f"{path.name} imports {module}"


def test_every_package_is_installed():
    settings = configparser.ConfigParser()
    settings.read(ROOT.parent / "setup.cfg")
    listed = set(settings["options"]["packages"].split())
    there = {".".join(p.parent.relative_to(ROOT.parent).parts) for p in ROOT.rglob("__init__.py")}
    assert there <= listed


@pytest.mark.parametrize("path", sorted((ROOT / "cli").glob("*.py")), ids=lambda p: p.name)
def test_commands_import_nothing_heavy_before_they_know_what_to_do(path):
    early = [name for name in imports_of(path, top_only=True) if name.split(".")[0] in HEAVY]
    assert not early


@pytest.mark.parametrize("module", ["detkd", "detkd.cli.app", "detkd.config"])
def test_importing_the_package_loads_no_heavy_library(module):
    code = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
