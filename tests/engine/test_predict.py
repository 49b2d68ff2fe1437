"""Predictions of a data set: each image as it is seen alone, in the data set's order."""

import json

import cv2
import numpy as np
import pytest
import torch

from detkd.config import ModelConfig
from detkd.data.dataset import CocoDataset
from detkd.engine.predict import predict
from detkd.models.detector import build_detector

SIZES = [(96, 128), (128, 128), (60, 128), (128, 96), (96, 128), (128, 128), (93, 125)]


@pytest.fixture
def mixed(tmp_path):
    """Images of several shapes, in no order of them."""
    random = np.random.default_rng(0)
    images = []
    for at, (height, width) in enumerate(SIZES):
        cv2.imwrite(str(tmp_path / f"{at}.png"), random.integers(0, 255, (height, width, 3)))
        images.append({"id": at, "file_name": f"{at}.png", "width": width, "height": height})
    document = {
        "images": images,
        "annotations": [],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }
    path = tmp_path / "all.json"
    path.write_text(json.dumps(document))
    return CocoDataset(path, images=tmp_path, image_size=128)


@pytest.fixture
def detector():
    torch.manual_seed(0)
    model = ModelConfig(
        backbone="shallow_x0.5_d1",
        neck="cem",
        neck_channels=16,
        head_width=16,
        levels=["p3", "p4"],
        anchor_sizes=[[16.0], [32.0]],
        proposals=30,
        detections=10,
        score_threshold=0.0,
    )
    return build_detector(model, ("a", "b"), 128).eval()


def test_an_image_is_seen_in_a_batch_as_alone_and_results_keep_the_data_sets_order(mixed, detector):
    together = predict(detector, mixed, batch_size=8)
    alone = predict(detector, mixed, batch_size=1)
    assert [each["image_id"] for each in together] == [each["image_id"] for each in alone]
    assert {each["image_id"] for each in together} == set(range(len(SIZES)))
    scores = [[each["score"] for each in results] for results in (together, alone)]
    assert np.abs(np.subtract(*scores)).max() < 1e-5


@pytest.mark.parametrize("said", [None, 0, "128", 1000])
def test_a_file_that_states_other_sizes_changes_nothing(mixed, detector, said):
    expected = predict(detector, mixed, batch_size=1)
    for image in mixed.truth["images"]:
        image["width"] = said
    scores = [each["score"] for each in predict(detector, mixed, batch_size=8)]
    assert np.abs(np.subtract(scores, [each["score"] for each in expected])).max() < 1e-5


def test_chosen_images_are_told_of_in_the_order_that_was_asked(mixed, detector):
    counts = []
    found = predict(detector, mixed, chosen=[5, 0, 4], progress=counts.append)
    assert list(dict.fromkeys(each["image_id"] for each in found)) == [5, 0, 4]
    assert sorted(counts) == [1, 2]  # 0 and 4 are of one size


def test_a_mixed_batch_is_another_matter(mixed, detector):
    """What `predict` avoids: padding is seen, if only where convolutions reach into it."""
    small, large = mixed[2][0], mixed[1][0]
    with torch.no_grad():
        alone, among = detector([small])[0], detector([large, small])[1]
    count = min(len(alone["scores"]), len(among["scores"]))
    assert not torch.allclose(alone["scores"][:count], among["scores"][:count], atol=1e-5)
