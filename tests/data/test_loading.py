"""CocoDataset, batches and augmentation."""

import itertools
import json

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from detkd.data.anchors import best_overlap, fit_anchors
from detkd.data.augment import AUGMENTATIONS, Augment
from detkd.data.dataset import CocoDataset, collate, load_image
from detkd.data.sampler import EpochBatches
from detkd.errors import ConfigError, DataError


def written(folder, images, annotations=()):
    document = {
        "images": images,
        "annotations": [{"id": at, **box} for at, box in enumerate(annotations, start=1)],
        "categories": [{"id": 4, "name": "a"}, {"id": 9, "name": "b"}],
    }
    (folder / "x.json").write_text(json.dumps(document))
    return folder / "x.json"


def one(folder, size=(200, 100), boxes=((20, 10, 40, 30),), **more):
    Image.new("RGB", size, (10, 20, 30)).save(folder / "i.png")
    image = {"id": 5, "file_name": "i.png", "width": size[0], "height": size[1]}
    box = [{"image_id": 5, "category_id": 9, "bbox": list(b), **more} for b in boxes]
    return written(folder, [image], box)


def test_image_and_boxes_are_scaled_together(tmp_path):
    image, target = CocoDataset(one(tmp_path), image_size=100)[0]
    assert image.shape == (3, 50, 100)
    assert image.dtype == torch.float32
    assert image[:, 0, 0].tolist() == pytest.approx([10 / 255, 20 / 255, 30 / 255])
    assert target["boxes"].tolist() == [[10, 5, 30, 20]]
    assert target["labels"].tolist() == [2]
    assert target["orig_size"].tolist() == [100, 200]
    assert int(target["image_id"]) == 5


def test_an_image_without_boxes_is_a_negative_and_a_crowd_no_target(tmp_path):
    for boxes, more in (((), {}), (((20, 10, 40, 30),), {"iscrowd": 1})):
        _, target = CocoDataset(one(tmp_path, boxes=boxes, **more), image_size=100)[0]
        assert target["boxes"].shape == (0, 4)


@pytest.mark.parametrize("cache", ["none", "memory", "disk"])
def test_every_cache_gives_the_same_pixels(scenes, tmp_path, cache):
    plain = CocoDataset(scenes / "all.json", image_size=80, cache="none")
    cached = CocoDataset(scenes / "all.json", image_size=80, cache=cache, cache_dir=tmp_path)
    for _ in range(2):
        assert torch.equal(plain[3][0], cached[3][0])
        assert torch.equal(plain[3][1]["boxes"], cached[3][1]["boxes"])
    assert len(list(tmp_path.iterdir())) == (cache == "disk")


def test_a_changed_image_is_not_taken_from_the_disk_cache(tmp_path):
    path = one(tmp_path)
    first = CocoDataset(path, image_size=64, cache="disk", cache_dir=tmp_path / "c")[0][0]
    Image.new("RGB", (200, 100), (200, 0, 0)).save(tmp_path / "i.png")
    second = CocoDataset(path, image_size=64, cache="disk", cache_dir=tmp_path / "c")[0][0]
    assert not torch.equal(first, second)


@pytest.mark.parametrize("left", [0, 40, -40])
def test_a_damaged_file_of_the_disk_cache_is_made_anew(tmp_path, left):
    path, folder = one(tmp_path), tmp_path / "c"
    whole = CocoDataset(path, image_size=64, cache="disk", cache_dir=folder)[0][0]
    (kept,) = folder.iterdir()
    kept.write_bytes(kept.read_bytes()[:left])
    for _ in range(2):
        again = CocoDataset(path, image_size=64, cache="disk", cache_dir=folder)[0][0]
        assert torch.equal(again, whole)
    assert list(folder.iterdir()) == [kept]


def test_exif_orientation_grey_and_sixteen_bit(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    assert load_image(tmp_path / "turned.jpg", 40)[1] == (40, 20)
    Image.new("L", (40, 20), 77).save(tmp_path / "grey.png")
    assert load_image(tmp_path / "grey.png", 40)[0][0, 0].tolist() == [77, 77, 77]
    cv2.imwrite(str(tmp_path / "deep.png"), np.full((20, 40), 256 * 90, np.uint16))
    assert load_image(tmp_path / "deep.png", 40)[0][0, 0].tolist() == [90, 90, 90]


def test_missing_images_are_counted_and_named(tmp_path):
    images = [{"id": k, "file_name": f"{k}.png", "width": 9, "height": 9} for k in range(1, 6)]
    Image.new("RGB", (9, 9)).save(tmp_path / "1.png")
    path = written(tmp_path, images, [{"image_id": 2, "category_id": 4, "bbox": [0, 0, 5, 5]}])
    with pytest.raises(DataError, match=r"4 of 5 images are not in .*: 2.png, 3.png, 4.png, ..."):
        CocoDataset(path, image_size=9)
    kept = CocoDataset(path, image_size=9, skip_missing=True)
    assert len(kept) == 1
    assert kept.truth["annotations"] == []


@pytest.mark.parametrize(
    ("name", "said"), [("../i.png", "leaves the image root"), ("/i.png", "leaves the image root")]
)
def test_names_that_leave_the_root_are_refused(tmp_path, name, said):
    image = {"id": 1, "file_name": name, "width": 9, "height": 9}
    with pytest.raises(DataError, match=said):
        CocoDataset(written(tmp_path, [image]), image_size=9)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not JSON"),
        ("[]", "no list 'images'"),
        ('{"images": [{}], "annotations": [], "categories": []}', r"images\[0\] has no 'id'"),
        ('{"images": [], "annotations": [], "categories": []}', "names no categories"),
    ],
)
def test_what_is_no_coco_file_is_refused(tmp_path, text, said):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match=said):
        CocoDataset(tmp_path / "x.json", image_size=9)


def test_an_unreadable_image_is_named(tmp_path):
    path = one(tmp_path)
    (tmp_path / "i.png").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"i.png: cannot be read as an image"):
        CocoDataset(path, image_size=100)[0]


def picture(boxes, size=(90, 120)):
    """Bright, asymmetric objects that fill their boxes, on a dark ground."""
    image = np.full((*size, 3), 40, np.uint8)
    for x0, y0, x1, y1 in np.asarray(boxes).astype(int):
        image[y0:y1, x0 : x0 + 3] = 255
        image[y1 - 3 : y1, x0:x1] = 255
    return image


def frame_of(image):
    rows, columns = np.nonzero(image.max(axis=2) > 140)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize("name", [name for name in AUGMENTATIONS if name != "none"])
def test_boxes_still_cover_their_object_after_every_augmentation(name):
    augment, boxes = Augment(name), np.array([[40.0, 30, 71, 52]])
    image = picture(boxes)
    seen = 0
    for seed in range(60):
        out, moved, kept = augment(image, boxes, seed)
        if not len(moved):
            continue
        assert kept.tolist() == [0]
        x0, y0, x1, y1 = moved[0]
        # A mirrored border may show the object a second time: look at the box's surroundings.
        top, left = max(0, int(y0) - 6), max(0, int(x0) - 6)
        near = out[top : int(y1) + 7, left : int(x1) + 7]
        found = np.array(frame_of(near)) + np.array([left, top, left, top])
        slack = 3 if name in ("strong", "zoom") else 2  # px, blurred by scaling
        assert np.abs(found - moved[0]).max() <= slack, (seed, found, moved)
        seen += 1
    assert seen > 40


def test_flips_are_exact():
    augment, boxes = Augment("flip"), np.array([[40.0, 30, 71, 52]])
    image = picture(boxes)
    outcomes = set()
    for seed in range(20):
        out, moved, _ = augment(image, boxes, seed)
        assert moved[0].tolist() == pytest.approx(frame_of(out), abs=1e-3)
        outcomes.add(tuple(np.round(moved[0])))
    assert len(outcomes) == 4


def test_boxes_that_lose_most_of_their_area_leave():
    augment = Augment("strong")
    boxes = np.array([[0.0, 0, 30, 30], [50, 40, 80, 70]])
    counts = [len(augment(picture(boxes), boxes, seed)[2]) for seed in range(60)]
    assert min(counts) < 2 <= max(counts)


def test_the_seed_alone_decides():
    augment, boxes = Augment("strong"), np.array([[40.0, 30, 71, 52]])
    image = picture(boxes)
    first = augment(image, boxes, 7)
    augment(image, boxes, 8)
    again = augment(image, boxes, 7)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_an_unknown_augmentation_is_refused():
    with pytest.raises(ConfigError, match="no augmentation 'strang'; there are none, flip"):
        Augment("strang")


def keys(**options):
    batches = EpochBatches(23, seed=1, **options)
    batches.set_epoch(2)
    return list(batches)


def test_batches_depend_on_seed_and_epoch_alone():
    batches = EpochBatches(23, 4, seed=1)
    batches.set_epoch(2)
    first = list(batches)
    assert len(first) == len(batches) == 5
    assert first == list(batches) == keys(batch_size=4)
    batches.set_epoch(3)
    assert first != list(batches)


def test_an_epoch_goes_on_in_its_middle():
    batches = EpochBatches(23, 4, seed=1)
    batches.set_epoch(2, 3)
    assert list(batches) == keys(batch_size=4)[3:]


def test_processes_together_see_the_batches_of_one():
    parts = [keys(batch_size=2, rank=rank, world_size=2) for rank in range(2)]
    assert [a + b for a, b in zip(*parts, strict=True)] == keys(batch_size=4)


def test_fewer_images_than_a_batch_still_make_one():
    assert [len(batch) for batch in EpochBatches(3, 8, seed=0)] == [3]


def test_fixed_views_come_again_whatever_the_seed():
    def epoch(at, seed):
        batches = EpochBatches(23, 4, seed=seed, views=3)
        batches.set_epoch(at)
        return dict(sorted(key for batch in batches for key in batch))

    first, second = epoch(0, 1), epoch(1, 1)
    assert not set(first.values()) & set(second.values())
    again, other_seed = epoch(3, 1), epoch(0, 2)
    for later in (again, other_seed):
        common = first.keys() & later.keys()
        assert len(common) > 10
        assert all(first[at] == later[at] for at in common)


def test_a_marked_view_is_known_when_it_comes_again(scenes):
    plain, marked = (
        CocoDataset(scenes / "all.json", image_size=64, augment="zoom", mark_views=marks)
        for marks in (False, True)
    )
    assert "view" not in plain[0, 3][1]
    assert "view" not in marked[0][1]  # as it is, it is no view
    keys = ((0, 3), (0, 4), (1, 3))
    views = {key: tuple(marked[key][1]["view"].tolist()) for key in keys}
    assert len(set(views.values())) == 3
    image, target = marked[0, 3]
    assert tuple(target["view"].tolist()) == views[0, 3]
    assert torch.equal(image, plain[0, 3][0])


def test_workers_change_nothing(scenes):
    def images(workers):
        data = CocoDataset(scenes / "all.json", image_size=64, augment="strong")
        batches = EpochBatches(len(data), 4, seed=0)
        loader = DataLoader(data, batch_sampler=batches, collate_fn=collate, num_workers=workers)
        return [image for batch, _ in loader for image in batch]

    assert all(torch.equal(a, b) for a, b in zip(images(0), images(2), strict=True))


def test_anchors_fit_the_boxes_better_than_powers_of_two():
    random = np.random.default_rng(0)
    sides = np.concatenate([random.normal(22, 3, 300), random.normal(47, 5, 300)])
    sizes = np.stack([sides, sides * random.uniform(0.8, 1.25, 600)], 1)
    anchors, overlap = fit_anchors(sizes, 3, [0.5, 1.0, 2.0])
    assert overlap == best_overlap(sizes, [a[0] for a in anchors], [0.5, 1.0, 2.0])
    assert overlap > best_overlap(sizes, [32, 64, 128], [0.5, 1.0, 2.0])
    assert all(b[0] >= 1.29 * a[0] for a, b in itertools.pairwise(anchors))
    assert fit_anchors(sizes[::-1], 3, [0.5, 1.0, 2.0])[0] == anchors


def test_the_overlap_of_an_anchor_by_hand():
    # A 20 x 20 box and a 40 x 40 anchor at one centre: 400 / 1600.
    assert best_overlap(np.array([[20.0, 20.0]]), [40], [1.0]) == pytest.approx(0.25)
