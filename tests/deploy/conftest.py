import os

import pytest
import yaml

from detkd.cli.app import launch
from detkd.files import locked


@pytest.fixture(scope="session")
def model_folder(scenes, tmp_path_factory):
    """An exported folder, and the checkpoint that it is of; nobody writes into them.

    Where several processes run the tests, the first that asks makes it for all.
    """
    base = tmp_path_factory.getbasetemp()
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "model"
    exported, checkpoint = place / "exported", place / "run/best.pt"
    with locked(place.with_suffix(".lock"), wait=True):
        if not exported.is_dir():
            place.mkdir()
            make(scenes, place, checkpoint, exported)
    return exported, checkpoint


def make(scenes, place, checkpoint, exported):
    data = {"train": str(scenes / "all.json"), "val": str(scenes / "all.json"), "image_size": 96}
    small = {"neck_channels": 16, "head_width": 16, "levels": ["p3"], "proposals": 30}
    model = {"backbone": "shallow_x0.5_d1", "roi_samples": 16, "score_threshold": 0.01, **small}
    train = {"epochs": 1, "batch_size": 4, "warmup": 2, "threads": 1, "device": "cpu"}
    config = {"name": "small", "data": data, "model": model, "train": train}
    (place / "small.yaml").write_text(yaml.safe_dump(config))
    run = ["--config", str(place / "small.yaml"), "--run", str(place / "run")]
    assert launch("train", run) == 0
    made = ["--made-frames", "2", "--out", str(exported)]
    assert launch("export", ["--checkpoint", str(checkpoint), *made]) == 0
