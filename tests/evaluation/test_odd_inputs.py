"""Odd inputs: each gives pycocotools' number of what it means, or a sentence with the entry."""

import copy
import re

import numpy as np
import pytest
from reference import made, pycocotools_says

from detkd.errors import DataError
from detkd.evaluation.case import build_case
from detkd.evaluation.coco_map import ENGINES, NAMES, coco_numbers
from detkd.evaluation.judge import judge_case
from detkd.evaluation.results import check_truth


def ids_from_zero(section):
    def change(truth, results):
        for entry in truth[section]:
            entry["id"] -= 1
        keys = {"images": "image_id", "categories": "category_id"}
        if key := keys.get(section):
            for entry in truth["annotations"] + results:
                entry[key] -= 1

    return change


def edit(section, at, **changes):
    def change(truth, results):
        entry = (results if section == "results" else truth[section])[at]
        for key, value in changes.items():
            if value is LEFT_OUT:
                del entry[key]
            else:
                entry[key] = value

    return change


def every(section, **changes):
    def change(truth, results):
        for entry in results if section == "results" else truth[section]:
            entry.update(changes)

    return change


def crowded(truth, results):
    for at in range(150):
        box = [at % 15 * 10, at // 15 * 10, 9, 9]
        results.append({"image_id": 2, "category_id": 3, "bbox": box, "score": 0.95 - at / 1000})


def named_images(truth, results):
    for entry in truth["images"]:
        entry["id"] = f"frame {entry['id']:02}"
    for entry in truth["annotations"] + results:
        entry["image_id"] = f"frame {entry['image_id']:02}"


def library_numbers(truth, results):
    for entry in results:
        entry["bbox"] = [np.float64(v) for v in entry["bbox"]]
        entry["score"] = np.float64(entry["score"])


LEFT_OUT = object()
NAN, INF = float("nan"), float("inf")
SAME = {
    "annotation ids from 0": ids_from_zero("annotations"),
    "image ids from 0": ids_from_zero("images"),
    "category ids from 0": ids_from_zero("categories"),
    "the same annotation id twice": edit("annotations", 1, id=1),
    "annotations without ids": every("annotations", id=None),
    "an image without a truth": lambda t, r: t["images"].append({"id": 99}),
    "a class without a truth": lambda t, r: t["categories"].append({"id": 99, "name": "c99"}),
    "a detection of an unknown class": lambda t, r: r.append({**r[0], "category_id": 99}),
    "a class id as text": lambda t, r: r.append({**r[0], "category_id": "3"}),
    "image ids that are names": named_images,
    "numbers of another library": library_numbers,
    "the truth's flag 'ignore'": every("annotations", ignore=1),
    "detections with further keys": every("results", area=-5, id=7, iscrowd=1),
    "truth without iscrowd": lambda t, r: [a.pop("iscrowd") for a in t["annotations"]],
    "truth without area": lambda t, r: [a.pop("area") for a in t["annotations"]],
    "images in another order": lambda t, r: t["images"].reverse(),
}
OWN = {
    "more than 100 detections an image": crowded,
    "all crowd": every("annotations", iscrowd=1),
    "all scores equal": every("results", score=0.5),
    "scores beyond 0 to 1": lambda t, r: [e.update(score=9 * e["score"] - 4) for e in r],
    "a detection without size": edit("results", 0, bbox=[5, 5, 0, 0]),
    "a truth without size": edit("annotations", 0, bbox=[5, 5, 0, 0], area=0),
    "a box left of the image": edit("results", 0, bbox=[-50.5, -10, 40, 40]),
    "a detection as large as a country": edit("results", 0, bbox=[0, 0, 1e6, 1e6]),
    "true instead of 1": edit("annotations", 0, bbox=[True, 2, 30, 40], area=1200),
    "whole numbers": edit("results", 0, bbox=[1, 2, 3, 4], score=1),
    "the same detection thrice": lambda t, r: r.extend([dict(r[0]), dict(r[0])]),
}
REFUSED = {
    "an unknown image": (edit("results", 3, image_id=99), "entry 3 is of image 99"),
    "an image id as text": (edit("results", 3, image_id="1"), "entry 3 is of image '1'"),
    "an image id that is a list": (edit("results", 3, image_id=[1]), "entry 3 is of image [1]"),
    "no image id": (edit("results", 3, image_id=None), "entry 3 is of image None"),
    "a category that is a list": (edit("results", 3, category_id=[1]), "entry 3 has the category"),
    "a score that is no number": (edit("results", 3, score=NAN), "entry 3 has the score nan"),
    "a score as text": (edit("results", 3, score="0.9"), "entry 3 has the score '0.9'"),
    "a score without end": (edit("results", 3, score=INF), "entry 3 has the score inf"),
    "a score beyond floats": (edit("results", 3, score=10**400), "entry 3 has the score 1000"),
    "no score": (edit("results", 3, score=LEFT_OUT), "entry 3 has no 'score'"),
    "no box": (edit("results", 3, bbox=LEFT_OUT), "entry 3 has no 'bbox'"),
    "a box that is not finite": (edit("results", 3, bbox=[0, NAN, 1, 1]), "entry 3 has the box"),
    "a box with a corner missing": (edit("results", 3, bbox=[0, 0, 1]), "entry 3 has the box"),
    "a box as text": (edit("results", 3, bbox="0123"), "entry 3 has the box '0123'"),
    "a negative width": (edit("results", 3, bbox=[9, 9, -4, 4]), "entry 3 has the box [9, 9, -4"),
    "corners instead of sizes": (edit("results", 3, bbox=[9, 9, 4, -2]), "width and height"),
    "an entry that is a list": (lambda t, r: r.insert(3, [1, 2]), "entry 3 has no 'image_id'"),
    "the same image id twice": (edit("images", 2, id=1), "images[2] has the id 1 of images[0]"),
    "the same class id twice": (edit("categories", 1, id=3), "categories[1] has the id 3"),
    "the same class name twice": (
        edit("categories", 1, name="c3"),
        "categories[1] has the name 'c3' of categories[0]",
    ),
    "a class name that is a number": (
        edit("categories", 1, name=7),
        "categories[1] has the name 7",
    ),
    "a class name that a terminal obeys": (
        edit("categories", 1, name="a\x1b[31m"),
        "categories[1] has the name 'a\\x1b[31m', with letters that cannot be shown",
    ),
    "an image id that is null": (edit("images", 2, id=None), "images[2] has the id None"),
    "a truth of an unknown image": (edit("annotations", 2, image_id=99), "annotations[2] is of im"),
    "a truth of an unknown class": (edit("annotations", 2, category_id=99), "is of category 99"),
    "a truth that is not finite": (edit("annotations", 2, bbox=[0, 0, INF, 1]), "annotations[2]"),
    "a truth of negative height": (edit("annotations", 2, bbox=[0, 0, 2, -1]), "annotations[2]"),
    "an area that is no number": (edit("annotations", 2, area=NAN), "annotations[2] has the area"),
    "a crowd flag as text": (edit("annotations", 2, iscrowd="no"), "annotations[2] has iscrowd"),
}


def judged(truth, results, engine):
    case = build_case(check_truth(truth, "gt.json"), results, "dt.json")
    numbers = coco_numbers(case, engine=engine)["coco"]
    return [numbers[name] for name in NAMES]


def said(truth, results):
    return [None if v < 0 else float(v) for v in pycocotools_says(truth, results).stats]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", SAME)
def test_what_means_the_same_is_judged_the_same(name, engine):
    truth, results = made(4)
    expected = said(truth, results)
    SAME[name](truth, results)
    assert judged(truth, results, engine) == expected


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", OWN)
def test_what_is_odd_is_judged_as_pycocotools_judges_it(name, engine):
    truth, results = made(4)
    OWN[name](truth, results)
    assert judged(truth, results, engine) == said(truth, results)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_judged_is_refused_with_its_entry(name):
    truth, results = made(4)
    change, sentence = REFUSED[name]
    change(truth, results)
    with pytest.raises(DataError, match=re.escape(sentence)) as refusal:
        judged(truth, results, "hotcoco")
    assert str(refusal.value).startswith(("gt.json: ", "dt.json: "))


@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_at_all_is_measured_as_nothing(engine):
    truth, results = made(4)
    empty = {"images": [], "categories": [], "annotations": []}
    assert judged(empty, [], engine) == [None] * 12
    assert judged({**truth, "annotations": []}, results, engine) == [None] * 12
    assert judged({**truth, "categories": [], "annotations": []}, results, engine) == [None] * 12
    assert [v for v in judged(truth, [], engine) if v] == []
    for case in (build_case(empty, []), build_case({**truth, "annotations": []}, results)):
        assert judge_case(case, bootstrap=3)["intervals"]["AP"] is None


def test_the_input_is_left_as_it_was():
    truth, results = made(4)
    before = copy.deepcopy((truth, results))
    judge_case(build_case(truth, results), bootstrap=2)
    assert (truth, results) == before
