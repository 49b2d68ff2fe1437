"""Images with one label: where they are read from, how they are divided, drawn and mixed."""

import csv
import json
import re
from collections import Counter
from dataclasses import replace
from itertools import combinations, pairwise
from math import inf
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from detkd.cli.app import launch
from detkd.data.class_dataset import (
    ClassDataset,
    Mixing,
    class_weights,
    drawn_counts,
    square,
)
from detkd.data.labelled_images import (
    LabelledImage,
    LabelledSet,
    divide_labelled,
    fold_of,
    groups_of,
    in_both,
    read_labelled,
)
from detkd.data.labelled_oddities import oddities, shares
from detkd.data.sampler import EpochBatches
from detkd.errors import DataError
from detkd.shipped import shipped


def picture(path, colour, size=(12, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def folders(tmp_path):
    """Two classes, 12 and 6 images, in three stations."""
    for at in range(12):
        picture(tmp_path / f"crops/ant/s{at % 3}/{at}.png", (at, 0, 0))
    for at in range(6):
        picture(tmp_path / f"crops/bee/s{at % 3}/{at}.png", (0, at, 0))
    return tmp_path / "crops"


def test_class_folders_are_read_with_folders_below_as_groups(folders):
    picture(folders / "beside.png", (9, 9, 9))  # no class: not read
    data = read_labelled(folders)
    assert data.classes == ("ant", "bee")
    assert data.counts == {"ant": 12, "bee": 6}
    assert {image.group for image in data.images} == {"s0", "s1", "s2"}


def test_groups_are_found_in_file_names_where_there_are_none(tmp_path):
    for at, name in enumerate(("c7-1", "c7-2", "c8-1", "odd")):
        picture(tmp_path / f"crops/{'ant' if at % 2 else 'bee'}/{name}.png", (at, 0, 0))
    picture(tmp_path / "crops/ant/s1/c7-3.png", (9, 0, 0))
    data = read_labelled(tmp_path / "crops").grouped(r"c(\d+)-")
    found = {image.file: image.group for image in data.images}
    assert found == {
        "bee/c7-1.png": "7",
        "ant/c7-2.png": "7",
        "bee/c8-1.png": "8",
        "ant/odd.png": None,
        "ant/s1/c7-3.png": "s1",  # its folder has the first word
    }
    assert read_labelled(tmp_path / "crops").grouped(None).images[0].group is None
    for pattern, said in (
        ("c(", "is no regular expression"),
        ("x9", "matches none of the file.*or null where"),
    ):
        with pytest.raises(DataError, match=said):
            read_labelled(tmp_path / "crops").grouped(pattern)


def clocks(*seconds):
    """Images of two classes in turn, called by the camera's clock."""
    images = [
        LabelledImage(f"{'ab'[at % 2]}/cam-{clock}-{at}.png", "ab"[at % 2])
        for at, clock in enumerate(seconds)
    ]
    return LabelledSet(Path("crops"), Path("crops"), ("a", "b"), tuple(images))


def test_images_that_follow_each_other_within_the_gap_are_one_group():
    # In the order of numbers, not of texts; the last name has none.
    data = clocks("160", "9", "10", "110", "211", "1000000", "x")
    found = [image.group for image in data.grouped(r"cam-(\d+)-", 100).images]
    assert found == ["9", "9", "9", "9", "9", "1000000", None]
    found = [image.group for image in data.grouped(r"cam-(\d+)-", 99.5).images]
    assert found == ["110", "9", "9", "110", "110", "1000000", None]
    found = [image.group for image in data.grouped(r"cam-(\d+)-", inf).images]
    assert found == ["9"] * 6 + [None]
    found = [image.group for image in data.grouped(r"cam-(\d+)-", 0).images]
    assert found == ["160", "9", "10", "110", "211", "1000000", None]


@given(st.lists(st.integers(0, 3000), min_size=3, max_size=60), st.integers(1, 300))
def test_no_two_images_within_the_gap_are_in_two_groups(seconds, gap):
    groups = [image.group for image in clocks(*seconds).grouped(r"cam-(\d+)-", gap).images]
    in_order = sorted(zip(seconds, groups, strict=True))
    for (one, its), (next_one, theirs) in pairwise(in_order):
        assert (its == theirs) == (next_one - one <= gap)


def test_a_gap_between_what_is_no_number_is_refused():
    with pytest.raises(DataError, match=r"finds '1-2' in b/cam-1-2-1\.png, and a gap is between"):
        clocks("7", "1-2").grouped(r"cam-(\d-?\d?)-", 100)
    data = clocks("7").grouped(None, 100)  # without a pattern there is nothing to be near
    assert data.images[0].group is None


def test_no_cast_of_the_real_crops_is_on_two_sides(real_data):
    crops = real_data / "plankton_crops/data"
    if not crops.is_dir():
        pytest.skip(f"no plankton_crops in {real_data}")
    for study in ("marine/student", "land_use/plankton", "self_distill/vgg11_full"):
        tree = yaml.safe_load(shipped("configs", f"{study}.yaml").read_text())
        data = tree.get("data") or {k.removeprefix("data."): v for k, v in tree["set"].items()}
        assert data["group_gap"] == 7200
        whole = read_labelled(crops).grouped(data["group_pattern"], data["group_gap"])
        sides = divide_labelled(whole, (0.7, 0.15, 0.15))
    sizes = {side: (len(part.images), len(set(groups_of(part)))) for side, part in sides.items()}
    assert sizes == {"train": (1273, 248), "val": (273, 56), "test": (273, 43)}
    clock = {
        side: [int(re.search(r"PWSSC-(\d+)", image.file)[1]) for image in part.images]
        for side, part in sides.items()
    }
    for one, other in combinations(clock, 2):
        assert min(abs(a - b) for a in clock[one] for b in clock[other]) > 7200
    for part in sides.values():  # and no class is judged on one cast alone
        casts = {label: set() for label in part.classes}
        for image in part.images:
            casts[image.label].add(image.group)
        assert min(len(found) for found in casts.values()) >= 2


def test_a_table_is_read_and_what_is_wrong_in_it_is_named(folders):
    def read(*rows, header="file,label,sample"):
        (folders / "t.csv").write_text("\n".join([header, *rows]))
        return read_labelled(folders / "t.csv")

    data = read("ant/s0/0.png,one,x", "bee\\s0\\0.png,two,")
    assert [(i.label, i.group) for i in data.images] == [("one", "x"), ("two", None)]
    for rows, header, said in (
        (["ant/s0/0.png,one"], "path,label", "needs a column of images"),
        (["nowhere.png,one"], "file,label", "line 2: 'nowhere.png' is not in"),
        (["../x.png,one"], "file,label", "leaves the folder"),
        (["ant/s0/0.png,"], "file,label", "line 2: has no label"),
        (["ant/s0/0.png,one", "ant/s0/0.png,two"], "file,label", "an image has one label"),
        (["ant/s0/0.png,one,x", "ant/s0/0.png,one,y"], "file,label,group", "line 3: .* one group"),
        ([], "file,label", "holds no image that has a class"),
    ):
        with pytest.raises(DataError, match=said):
            read(*rows, header=header)
    with pytest.raises(DataError, match="no such folder of class folders"):
        read_labelled(folders / "nowhere")


@pytest.mark.parametrize(
    ("encoding", "delimiter"),
    [("utf-8-sig", ";"), ("utf-16", "\t"), ("cp1252", ";")],
)
def test_a_table_is_read_as_a_spreadsheet_writes_it(folders, encoding, delimiter):
    rows = [["file", "label"], ["ant/s0/0.png", "grün"], ["bee/s0/0.png", "rot"]]
    text = "\r\n".join(delimiter.join(row) for row in [*rows, rows[1]])  # a row comes twice
    (folders / "t.csv").write_bytes(text.encode(encoding))
    data = read_labelled(folders / "t.csv")
    assert data.classes == ("grün", "rot")
    assert len(data.images) == 2


def test_the_pages_of_a_stack_are_images_of_one_group(folders):
    page = Image.new("L", (9, 9))
    page.save(folders / "ant/stack.tif", save_all=True, append_images=[Image.new("L", (9, 9), 5)])
    data = read_labelled(folders)
    pages = [at for at, image in enumerate(data.images) if "stack" in image.file]
    assert [data.images[at].file[-6:] for at in pages] == ["page=1", "page=2"]
    assert len({groups_of(data)[at] for at in pages}) == 1
    (folders / "t.csv").write_text("file,label\nant/stack.tif#page=2,a\nbee/s0/0.png,b\n")
    assert len(read_labelled(folders / "t.csv").images) == 2
    for groups in (["one", "two"], ["one", ""], ["", ""]):
        rows = [f"ant/stack.tif#page={at + 1},a,{group}" for at, group in enumerate(groups)]
        (folders / "t.csv").write_text("\n".join(["file,label,group", *rows, "bee/s0/0.png,b,x"]))
        found = groups_of(read_labelled(folders / "t.csv"))
        assert found[0] == found[1] != found[2]
    with pytest.raises(DataError, match=r"\(the pages of a stack are one group\): 2 groups cannot"):
        divide_labelled(read_labelled(folders / "t.csv"), [1, 1, 1])


def test_sides_in_the_place_of_classes_are_refused(tmp_path):
    for side in ("train", "valid", "Test"):
        picture(tmp_path / f"ds/{side}/ant/0.png", (1, 0, 0))
    with pytest.raises(DataError) as refused:
        read_labelled(tmp_path / "ds")
    ds = tmp_path / "ds"
    assert "its folders Test, train, valid are sides" in str(refused.value)
    assert f"--data.train {ds}/train --data.val {ds}/valid," in str(refused.value)
    assert read_labelled(tmp_path / "ds/train").classes == ("ant",)
    picture(tmp_path / "one/training/ant/0.png", (1, 0, 0))
    with pytest.raises(DataError, match=r"--data.train .*one/training,"):
        read_labelled(tmp_path / "one")
    picture(tmp_path / "one/ant/0.png", (1, 0, 0))  # a class may be called so, among others
    assert read_labelled(tmp_path / "one").classes == ("ant", "training")
    (tmp_path / "ds/Test/ant/0.png").rename(tmp_path / "ds/Test/0.png")  # a test without labels
    picture(tmp_path / "ds/valid/sheet.png", (1, 0, 0))
    with pytest.raises(DataError, match="its folders train, valid are sides"):
        read_labelled(tmp_path / "ds")
    for name in ("valid/0.png", "train/0.png"):  # or alone, where its images are right there
        picture(tmp_path / "two" / name, (1, 0, 0))
    assert read_labelled(tmp_path / "two").classes == ("train", "valid")
    with pytest.raises(DataError, match=r"--data.train \S*/val, and"):
        picture(tmp_path / "three/val/ant/0.png", (1, 0, 0))
        read_labelled(tmp_path / "three")


def test_images_of_few_deep_shades_are_stretched_alike(tmp_path):
    for at, shade in enumerate((0, 1000, 4000)):
        path = tmp_path / f"{'ab'[at % 2]}/{at}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 8), shade, np.uint16)).save(path)
    data = read_labelled(tmp_path)
    assert data.levels == (0, 4000)
    shown = ClassDataset(data, image_size=8, levels=data.levels)
    shades = {image.file[2]: float(shown[at][0].mean()) for at, image in enumerate(data.images)}
    assert shades == pytest.approx({"0": 0, "1": 0.25, "2": 1}, abs=0.01)
    assert data.part([]).levels is None
    # A network that has learned from images of 8 bits knows no levels.
    with pytest.raises(DataError, match=r"0\.png: is of 16 bits, and what becomes 0 and 255"):
        ClassDataset(data, image_size=8).check_images()


def test_no_group_is_divided_and_equal_files_belong_together(folders):
    sides = divide_labelled(read_labelled(folders), (1, 1, 1))
    where = {side: {i.group for i in part.images} for side, part in sides.items()}
    assert sorted(len(groups) for groups in where.values()) == [1, 1, 1]
    assert all(part.counts == {"ant": 4, "bee": 2} for part in sides.values())

    twins = folders.parent / "twins"
    for at in range(4):
        picture(twins / f"a/{at}.png", (at, 0, 0))
        picture(twins / f"b/{at}.png", (at, 0, 0) if at == 2 else (0, at + 1, 0))
    data = read_labelled(twins)
    groups = dict(zip([i.file for i in data.images], groups_of(data), strict=True))
    assert groups["a/2.png"] == groups["b/2.png"]
    assert len(set(groups.values())) == 7


def test_named_groups_with_equal_files_are_one(folders):
    (folders / "bee/s1/copy.png").write_bytes((folders / "ant/s0/0.png").read_bytes())
    data = read_labelled(folders)
    groups = dict(zip([i.file for i in data.images], groups_of(data), strict=True))
    assert {groups["ant/s0/0.png"], groups["ant/s1/1.png"]} == {"s0"}  # two samples are one now
    assert groups["ant/s2/2.png"] == "s2"
    with pytest.raises(DataError, match="2 groups cannot fill 3 sides"):
        divide_labelled(data, (1, 1, 1))
    # One of them without a group: it goes with the one that has.
    (folders / "t.csv").write_text("file,label,group\nant/s0/0.png,a,s0\nbee/s1/copy.png,b,\n")
    assert groups_of(read_labelled(folders / "t.csv")) == ["s0", "s0"]


def test_images_that_are_in_two_sources_are_found(folders):
    data = read_labelled(folders)
    other = folders.parent / "other"
    picture(other / "ant/new.png", (99, 0, 0))
    picture(other / "bee/of_train.png", (3, 0, 0))
    assert [image.file for image in in_both(data, read_labelled(other))] == ["bee/of_train.png"]
    assert len(in_both(data, data)) == len(data.images)


def test_links_out_of_the_root_are_refused(folders):
    away = folders.parent / "away"
    picture(away / "0.png", (1, 1, 1))
    (folders / "t.csv").write_text("file,label\nant/s0/0.png,a\nlink.png,b\n")
    (folders / "link.png").symlink_to(away / "0.png")
    with pytest.raises(DataError, match=r"line 3: 'link\.png' leads by a link out of"):
        read_labelled(folders / "t.csv")
    (folders / "link.png").unlink()
    (folders / "by").symlink_to(away)  # and not by a folder on the way, either
    (folders / "t.csv").write_text("file,label\nant/s0/0.png,a\nby/0.png,b\n")
    with pytest.raises(DataError, match=r"line 3: 'by/0\.png' leads by a link out of"):
        read_labelled(folders / "t.csv")
    (folders / "by").unlink()
    (folders / "cat").symlink_to(away)
    with pytest.raises(DataError, match=r"crops/cat: is a link to a folder, out of"):
        read_labelled(folders)


def test_crops_are_read_as_a_folder_with_the_groups_of_their_table(scenes, tmp_path):
    document = json.loads((scenes / "all.json").read_text())
    document["categories"][0]["name"] = "a b"
    document["categories"][1]["name"] = "a/b"  # folders of one name
    document["categories"][2]["name"] = "c d"
    path, out = scenes / "renamed.json", tmp_path / "crops"
    path.write_text(json.dumps(document))
    assert launch("crop", [str(path), str(out)]) == 0
    path.unlink()
    by_table, by_folder = read_labelled(out / "crops.csv"), read_labelled(out)
    assert set(by_folder.images) == set(by_table.images)
    assert {"a b", "a/b"} < set(by_folder.classes)
    # One moved to another class keeps its group, one taken away is gone, a new one stands alone.
    last = [i for i in by_table.images if i.label == by_table.classes[-1]]
    moved, gone, other = last[:3]
    (out / other.file).rename(out / "c_d" / Path(other.file).name)
    (out / moved.file).rename(out / "a_b" / Path(moved.file).name)
    (out / gone.file).unlink()
    picture(out / "new/x.png", (1, 2, 3))
    read = {image.file: image for image in read_labelled(out).images}
    assert read[f"a_b/{Path(moved.file).name}"] == LabelledImage(
        f"a_b/{Path(moved.file).name}", "a_b", moved.group
    )
    assert gone.file not in read
    assert read[f"c_d/{Path(other.file).name}"].label == "c d"
    assert read["new/x.png"].group is None


def test_crops_of_a_stack_are_of_one_group_and_long_names_are_cut(tmp_path):
    deep = "/".join(["a" * 120, "b" * 140])
    pages = [Image.new("L", (20, 20), shade) for shade in (7, 99)]
    pages[0].save(tmp_path / "s.tif", save_all=True, append_images=pages[1:])
    for name in (f"{deep}.png", f"{deep}c.png"):
        picture(tmp_path / name, (1, 2, 3), (20, 20))
    files = ["s.tif#page=1", "s.tif#page=2", f"{deep}.png", f"{deep}c.png"]
    made = coco(tmp_path, files, [(at, [2, 2, 9, 9]) for at in range(4)])
    assert launch("crop", [made, str(tmp_path / "out")]) == 0
    table = rows(tmp_path / "out")
    assert [row["group"] for row in table] == ["s.tif", "s.tif", *files[2:]]
    assert len({row["file"] for row in table}) == 4
    assert all((tmp_path / "out" / row["file"]).is_file() for row in table)


def test_a_division_is_the_same_for_a_seed(folders):
    data = read_labelled(folders)
    assert divide_labelled(data, (1, 1, 1), seed=3) == divide_labelled(data, (1, 1, 1), seed=3)
    with pytest.raises(DataError, match="are not shares"):
        divide_labelled(data, (1, 1))
    with pytest.raises(DataError, match="are not shares"):
        divide_labelled(data, (inf, 1, 1))


def test_in_k_folds_each_image_is_validated_on_once(folders):
    data = read_labelled(folders)
    seen = []
    for fold in range(3):
        train, val = fold_of(data, 3, fold)
        assert not {i.group for i in train.images} & {i.group for i in val.images}
        seen += [image.file for image in val.images]
    assert sorted(seen) == sorted(image.file for image in data.images)
    with pytest.raises(DataError, match="no fold 3 of 3"):
        fold_of(data, 3, 3)
    with pytest.raises(DataError, match="1 leaves nothing to learn from"):
        fold_of(data, 1, 0)
    alone = LabelledSet(
        data.source, data.root, data.classes, tuple(replace(i, group=None) for i in data.images)
    )
    with pytest.raises(DataError, match="no class has 13 images"):
        fold_of(alone, 13, 0)


def test_a_crop_stands_on_a_square_of_its_borders_colour():
    image = np.full((4, 10, 3), 7, np.uint8)
    image[1:3, 3:7] = 200
    out = square(image)
    assert out.shape == (10, 10, 3)
    assert (out[:3] == 7).all()
    assert (out[3:7] == image).all()


def test_an_image_is_a_function_of_index_and_draw(folders):
    data = ClassDataset(read_labelled(folders), image_size=16, augment="strong", randaugment=2)
    image, target = data[(13, 5)]
    assert image.shape == (3, 16, 16)
    assert int(target["label"]) == 1
    before = torch.random.get_rng_state()
    assert torch.equal(image, data[(13, 5)][0])
    assert torch.equal(before, torch.random.get_rng_state())
    assert not torch.equal(image, data[13][0])


def test_broken_images_are_told_in_a_sentence(folders):
    (folders / "ant/s0/0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1 of 18 images cannot be read: ant/s0/0\.png; replace"):
        ClassDataset(read_labelled(folders), image_size=16).check_images()


def test_classes_left_out_are_gone(folders):
    picture(folders / "cat/0.png", (1, 1, 1))
    data = read_labelled(folders).without(["cat"])
    assert data.classes == ("ant", "bee")
    with pytest.raises(DataError, match="no class 'dog' to leave out"):
        data.without(["dog"])


def test_balanced_drawing_shows_classes_alike_and_a_repeated_image_anew():
    labels = np.array([0] * 90 + [1] * 10)
    assert class_weights(labels, 2, 0.0) is None
    weights = class_weights(labels, 2, 1.0)
    assert weights[:90].sum() == pytest.approx(0.5)
    half = class_weights(labels, 2, 0.5)
    assert half[:90].sum() == pytest.approx(0.75)  # √90 : √10 = 3 : 1
    batches = EpochBatches(100, 10, seed=0, weights=weights)
    keys = []
    for epoch in range(20):
        batches.set_epoch(epoch)
        epochs_keys = [key for batch in batches for key in batch]
        assert len(set(epochs_keys)) == len(epochs_keys) == 100
        keys += epochs_keys
    drawn = Counter(int(labels[index]) for index, _ in keys)
    assert drawn[1] == pytest.approx(1000, abs=100)


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_counts_are_told_as_they_are_drawn(balance):
    labels = np.array([0] * 90 + [1] * 10)
    weights = class_weights(labels, 2, balance)
    drawn = np.ones(100) / 100 if weights is None else weights
    counts = np.array(drawn_counts([90, 10], balance))
    shares = [drawn[labels == label].sum() for label in (0, 1)]
    assert counts / counts.sum() == pytest.approx(shares)
    assert drawn_counts([3, 0], balance)[1] == 0  # a class without images has none


def test_mixed_images_have_mixed_labels_and_depend_on_the_draws_alone():
    def batch(draw):
        return [
            (
                torch.full((3, 8, 8), float(at)),
                {"label": torch.tensor(at), "draw": torch.tensor(draw + at)},
            )
            for at in range(3)
        ]

    for way in ({"mixup": 1.0}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}):
        images, targets = Mixing(3, **way)(batch(0))
        for image, target in zip(images, targets, strict=True):
            share = target["probabilities"]
            assert float(share.sum()) == pytest.approx(1)
            # An image of colour k counts as class k by its share of the picture.
            mean = float((share * torch.arange(3)).sum())
            assert float(image.mean()) == pytest.approx(mean, abs=1e-4)
        again, _ = Mixing(3, **way)(batch(0))
        assert all(torch.equal(a, b) for a, b in zip(images, again, strict=True))
        other, _ = Mixing(3, **way)(batch(50))
        assert not all(torch.equal(a, b) for a, b in zip(images, other, strict=True))
    plain, targets = Mixing(3)(batch(0))
    assert float(plain[2].mean()) == 2
    assert "probabilities" not in targets[0]


def rows(folder):
    return list(csv.DictReader((folder / "crops.csv").open()))


def test_a_sample_of_number_nought_is_a_sample(scenes, tmp_path):
    document = json.loads((scenes / "all.json").read_text())
    for at, image in enumerate(document["images"]):
        image["sample"] = at % 2
    path = scenes / "halves.json"
    path.write_text(json.dumps(document))
    assert launch("crop", [str(path), str(tmp_path / "crops")]) == 0
    path.unlink()
    assert {row["group"] for row in rows(tmp_path / "crops")} == {"0", "1"}


def test_crops_keep_samples_and_are_read_as_labelled_images(scenes, tmp_path):
    document = json.loads((scenes / "all.json").read_text())
    out = tmp_path / "crops"
    command = ["crop", str(scenes / "all.json"), str(out), "--background", "2", "--margin", "0"]
    label = document["categories"][0]["name"]
    assert launch(command[0], [*command[1:], "--unknown", label]) == 0
    table = rows(out)
    objects = [row for row in table if row["label"] != "background"]
    assert len(objects) == len(document["annotations"])
    assert label not in {row["label"] for row in table}
    assert "unknown" in {row["label"] for row in table}
    samples = {image["file_name"]: image["sample"] for image in document["images"]}
    assert all(row["group"] == samples[row["image"]] for row in table)
    first = document["annotations"][0]
    x, y, w, h = first["bbox"]
    row = table[0]
    assert [int(row[k]) for k in ("xmin", "ymin")] == [int(x), int(y)]
    with Image.open(out / row["file"]) as crop:
        assert crop.size == (int(row["xmax"]) - int(row["xmin"]), int(np.ceil(y + h)) - int(y))
    boxes = {image["id"]: [] for image in document["images"]}
    for box in document["annotations"]:
        boxes[box["image_id"]].append(box["bbox"])
    ids = {image["file_name"]: image["id"] for image in document["images"]}
    for row in table:
        if row["label"] == "background":
            left, top, right, bottom = (int(row[k]) for k in ("xmin", "ymin", "xmax", "ymax"))
            for x, y, w, h in boxes[ids[row["image"]]]:
                assert x + w <= left or x >= right or y + h <= top or y >= bottom
    data = read_labelled(out / "crops.csv")
    assert set(data.classes) == {row["label"] for row in table}
    sides = divide_labelled(data, (0.5, 0.25, 0.25))
    held = [{image.group for image in part.images} for part in sides.values()]
    assert not set.intersection(*held)


def test_crops_are_refused_in_a_sentence(scenes, tmp_path, capsys):
    (tmp_path / "there").mkdir()
    for more, said in (
        (["there"], "is there already"),
        (["new", "--unknown", "elephant"], "no class 'elephant'"),
        (["new", "--margin", "-1"], "--margin is from 0"),
    ):
        argv = [str(scenes / "all.json"), str(tmp_path / more[0]), *more[1:]]
        assert launch("crop", argv) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def coco(folder, files, boxes, **more):
    """A COCO file of these images with one class, and boxes by the place of their image."""
    document = {
        "images": [{"id": at, "file_name": file} for at, file in enumerate(files)],
        "annotations": [
            {"id": at, "image_id": image, "category_id": 1, "bbox": box}
            for at, (image, box) in enumerate(boxes)
        ],
        "categories": [{"id": 1, "name": "ant"}],
        **more,
    }
    (folder / "all.json").write_text(json.dumps(document))
    return str(folder / "all.json")


def test_crops_of_images_of_like_names_are_all_kept(tmp_path):
    picture(tmp_path / "a/b.png", (9, 0, 0), (20, 30))
    picture(tmp_path / "a_b.png", (0, 9, 0), (20, 30))
    made = coco(tmp_path, ["a/b.png", "a_b.png"], [(0, [-4, -4, 10, 10]), (1, [15, 25, 10, 10])])
    assert launch("crop", [made, str(tmp_path / "out"), "--margin", "0.2"]) == 0
    table = rows(tmp_path / "out")
    cut = [[int(row[k]) for k in ("xmin", "ymin", "xmax", "ymax")] for row in table]
    assert cut == [[0, 0, 8, 8], [13, 23, 20, 30]]  # with the margin, as far as the image goes
    colours = [Image.open(tmp_path / "out" / row["file"]).getpixel((0, 0)) for row in table]
    assert colours == [(9, 0, 0), (0, 9, 0)]


def test_crops_have_the_shades_and_pages_that_a_detector_sees(tmp_path):
    Image.fromarray(np.full((20, 20), 2000, np.uint16)).save(tmp_path / "deep.png")
    first = Image.new("L", (20, 20), 7)
    first.save(tmp_path / "s.tif", save_all=True, append_images=[Image.new("L", (20, 20), 99)])
    info = {"detkd": {"sixteen_bit": {"low": 0, "high": 4000}}}
    boxes = [(0, [2, 2, 9, 9]), (1, [2, 2, 9, 9])]
    made = coco(tmp_path, ["deep.png", "s.tif#page=2"], boxes, info=info)
    assert launch("crop", [made, str(tmp_path / "out")]) == 0
    shades = [
        Image.open(tmp_path / "out" / row["file"]).getpixel((0, 0))[0]
        for row in rows(tmp_path / "out")
    ]
    assert shades == [128, 99]


def test_background_is_found_in_a_narrow_image(tmp_path):
    picture(tmp_path / "tall.png", (1, 2, 3), (8, 200))
    made = coco(tmp_path, ["tall.png"], [])
    assert launch("crop", [made, str(tmp_path / "out"), "--background", "2"]) == 0
    assert [row["label"] for row in rows(tmp_path / "out")] == ["background"] * 2


def test_what_a_crowd_covers_is_no_background(tmp_path, capsys):
    for name in ("full", "half"):
        picture(tmp_path / f"{name}.png", (1, 2, 3), (40, 20))
    made = coco(tmp_path, ["full.png", "half.png"], [(0, [0, 0, 40, 20]), (1, [0, 0, 20, 20])])
    document = json.loads(Path(made).read_text())
    for box in document["annotations"]:
        box["iscrowd"] = 1
    Path(made).write_text(json.dumps(document))
    assert launch("crop", [made, str(tmp_path / "out"), "--background", "3"]) == 0
    table = rows(tmp_path / "out")
    assert [(row["image"], row["label"]) for row in table] == [("half.png", "background")] * 3
    assert min(int(row["xmin"]) for row in table) >= 20
    assert "3 of the 6 places without an object were not found" in capsys.readouterr().out
    assert launch("crop", [made, str(tmp_path / "other"), "--smallest", "nan"]) == 2
    assert "--smallest: nan are no px" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("classes", "more", "said"),
    [
        (["background", "ant"], ["--background", "1"], "a class 'background' of its own"),
        (["unknown", "ant"], ["--unknown", "ant"], "a class 'unknown' of its own"),
        (["unknown", "ant"], ["--unknown", "ant", "unknown"], None),
        (["background", "unknown"], [], None),
    ],
)
def test_a_class_is_not_mixed_with_a_made_one_without_a_word(tmp_path, capsys, classes, more, said):
    picture(tmp_path / "a.png", (1, 2, 3), (40, 40))
    categories = [{"id": at, "name": name} for at, name in enumerate(classes, start=1)]
    made = coco(tmp_path, ["a.png"], [(0, [0, 0, 9, 9])], categories=categories)
    code = launch("crop", [made, str(tmp_path / "out"), *more])
    assert code == (2 if said else 0)
    assert (said or "") in capsys.readouterr().err
    assert (tmp_path / "out").exists() == (said is None)


@pytest.mark.parametrize(
    ("image", "box", "said"),
    [
        (7, [1, 1, 9, 9], "annotations[0] has an unknown image_id"),
        (0, [1, float("nan"), 9, 9], "four finite numbers"),
        (0, [1, 9, 9], "four finite numbers"),
        (0, ["1", 1, 9, 9], "four finite numbers"),
    ],
)
def test_boxes_that_cannot_be_cut_are_refused(tmp_path, capsys, image, box, said):
    picture(tmp_path / "a.png", (1, 2, 3), (20, 20))
    made = coco(tmp_path, ["a.png"], [(image, box)])
    assert launch("crop", [made, str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_marked_view_is_known_when_it_comes_again(tmp_path):
    random = np.random.default_rng(0)
    for name in ("ant/0", "bee/1"):
        (tmp_path / name).parent.mkdir()
        noise = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{name}.png")
    data = read_labelled(tmp_path)
    plain, marked = (
        ClassDataset(data, image_size=32, augment="strong", mark_views=marks)
        for marks in (False, True)
    )
    assert "view" not in plain[0, 3][1]
    assert "view" not in marked[0][1]  # as it is, it is no view
    views = {key: marked[key][1]["view"].tolist() for key in ((0, 3), (0, 4), (1, 3))}
    assert len({tuple(view) for view in views.values()}) == 3
    image, target = marked[0, 3]
    assert target["view"].tolist() == views[0, 3]
    assert torch.equal(image, plain[0, 3][0])
    _, mixed = Mixing(2, mixup=1.0)([marked[0, 3], marked[1, 3]])
    assert not any("view" in each for each in mixed)


def test_what_is_odd_about_labelled_images_is_told(folders):
    picture(folders / "bee/s0/0.png", (0, 0, 1))  # else it is that of an ant
    assert list(oddities(read_labelled(folders))) == []
    picture(folders / "beside.png", (9, 9, 9))
    (folders / "empty").mkdir()
    (folders / ".hidden").mkdir()
    picture(folders / "Ant /s0/100.png", (77, 0, 0))
    (folders / "bee/copy.png").write_bytes((folders / "ant/s0/0.png").read_bytes())
    told = list(oddities(read_labelled(folders)))
    assert len(told) == 4
    assert "1 folders hold no image" in told[0] and told[0].endswith("no classes: empty.")
    assert "1 images lie beside the class folders" in told[1] and "beside.png" in told[1]
    assert "the classes 'Ant ' and 'ant' differ in case or blanks alone" in told[2]
    assert "1 images are in more than one class" in told[3] and "'bee/copy.png' (bee)" in told[3]
    left = list(oddities(read_labelled(folders), ["Ant ", "bee"]))
    assert not any("differ in case" in line or "more than one class" in line for line in left)


def test_the_pages_of_a_stack_may_be_of_different_classes(tmp_path):
    pages = [Image.new("RGB", (8, 8), (at, 0, 0)) for at in range(2)]
    for name in ("a", "b"):
        pages[0].save(tmp_path / f"{name}.tif", save_all=True, append_images=pages[1:])
    rows = [f"{name}.tif#page={at + 1},{'xy'[at]}" for name in "ab" for at in range(2)]
    (tmp_path / "t.csv").write_text("\n".join(["file,label", *rows]))
    assert list(oddities(read_labelled(tmp_path / "t.csv"))) == []


def test_each_side_is_told_with_the_classes_that_it_lacks(folders):
    data = read_labelled(folders)
    ants = data.part(at for at, image in enumerate(data.images) if image.label == "ant")
    lines = list(shares([("to learn from", data), ("to validate on", ants), ("kept", None)]))
    assert lines == [
        f"{folders}: 2 classes; images: 18 to learn from, 12 to validate on",
        f"{folders}: of 1 classes there is no image to validate on, where scores are of the "
        "others: bee.",
    ]


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("File,Label,Group\na.png,ant,s1\nb.png,bee,s2\n", "s1"),
        ("sep=;\nfile;label;group\na.png;ant;s1\nb.png;bee;s2\n", "s1"),
        ("file,label,group\na.png,ant,s1,,\nb.png,bee,s2\n", "s1"),
        ('file,label,group\na.png,ant,"s1, north"\nb.png,bee,s2\n', "s1, north"),
    ],
)
def test_tables_as_spreadsheets_write_them(tmp_path, text, group):
    for at, name in enumerate("ab"):
        picture(tmp_path / f"{name}.png", (at, 0, 0))
    (tmp_path / "t.csv").write_text(text)
    assert read_labelled(tmp_path / "t.csv").images[0] == LabelledImage("a.png", "ant", group)


def test_a_row_with_a_field_too_many_is_refused(tmp_path):
    picture(tmp_path / "a.png", (0, 0, 0))
    (tmp_path / "t.csv").write_text("file,label,group\na.png,ant, female,s0\n")
    with pytest.raises(DataError, match="line 2 has more fields than there are columns"):
        read_labelled(tmp_path / "t.csv")


def test_a_division_that_cannot_be_made_names_the_images(tmp_path):
    for at in range(4):
        picture(tmp_path / f"crops/{'ab'[at % 2]}/s0/{at}.png", (at, 0, 0))
    with pytest.raises(DataError, match=r"crops: 1 group cannot fill 3 sides"):
        divide_labelled(read_labelled(tmp_path / "crops"), [1, 1, 1])
