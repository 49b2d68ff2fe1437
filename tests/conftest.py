import os
from pathlib import Path

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

# The same examples each time, however slow the machine is.
settings.register_profile("detkd", derandomize=True, deadline=None)
settings.load_profile("detkd")

# The shapes in the signatures of the losses are checked at run time, in the tests alone.
install_import_hook("detkd.distill.losses", "beartype.beartype")

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real data sets; a checkout without them skips the test."""
    folder = (ROOT / os.environ.get("DETKD_DATA", "../shared/data")).resolve()
    if not (folder / "bccd").is_dir():
        pytest.skip(f"no real data in {folder}: set DETKD_DATA to the folder that holds bccd/")
    return folder


@pytest.fixture(scope="session")
def scenes(tmp_path_factory) -> Path:
    """A folder with 12 rendered scenes as a VOC tree (scenes/) and as COCO (all.json)."""
    from detkd.cli.app import launch
    from detkd.data.synthetic import write_scenes

    folder = tmp_path_factory.mktemp("synthetic")
    write_scenes(folder / "scenes", 12, seed=3, size=(96, 128), samples=4)
    assert launch("convert", [str(folder / "scenes"), str(folder / "all.json")]) == 0
    return folder


@pytest.fixture
def tiny(scenes, tmp_path):
    """Writes the config of a training that takes a second or two; returns its path."""
    import yaml

    def write(name: str = "tiny", **changes) -> Path:
        tree = {
            "name": name,
            "data": {
                "train": str(scenes / "all.json"),
                "val": str(scenes / "all.json"),
                "image_size": 96,
            },
            "model": {
                "backbone": "shallow_x0.5_d1",
                "neck_channels": 16,
                "head_width": 16,
                "levels": ["p3", "p4"],
                "roi_samples": 16,
                "proposals": 30,
            },
            "train": {"epochs": 2, "batch_size": 4, "warmup": 2, "threads": 1, "device": "cpu"},
        }
        for key, value in changes.items():
            part, _, field = key.partition("__")
            if field:
                tree.setdefault(part, {})[field] = value
            else:
                tree[part] = value
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(tree))
        return path

    return write
