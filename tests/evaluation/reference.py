"""Inputs made by code, and pycocotools as the independent judge of them."""

import contextlib
import copy
import io
import random

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def made(seed, images=12, crowds=False, most=6):
    """A truth with its classes unevenly spread, and noisy detections with ties."""
    draw = random.Random(seed)
    truth = {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "width": 200, "height": 200, "sample": f"S{i % 4}"}
            for i in range(1, images + 1)
        ],
        "categories": [{"id": k, "name": f"c{k}"} for k in (3, 1, 7)],
        "annotations": [],
    }
    results = []
    for image in truth["images"]:
        for _ in range(draw.randrange(most)):
            x, y = draw.uniform(0, 120), draw.uniform(0, 120)
            w, h = draw.choice([8, 40, 110]), draw.choice([10, 50, 100])
            crowd = int(crowds and draw.random() < 0.2)
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": image["id"],
                    "category_id": draw.choice([1, 3]),
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": crowd,
                }
            )
            for _ in range(draw.randrange(4)):
                moved = [x + draw.gauss(0, 5), y + draw.gauss(0, 5), w, h * draw.uniform(0.8, 1.2)]
                results.append(
                    {
                        "image_id": image["id"],
                        "category_id": draw.choice([1, 3, 3, 7]),
                        "bbox": moved,
                        "score": round(draw.random(), 1),
                    }
                )
    return truth, results


def fuzzed(seed):
    """As odd as an input may be that pycocotools judges: see the choices."""
    draw = random.Random(seed)
    images = draw.sample(range(1000), draw.choice([1, 3, 12, 25]))
    categories = draw.choice([[3, 1, 7], [1], [5, 2, 9, 4]])
    crowds = draw.choice([0, 0, 0.2, 1])
    digits = draw.choice([1, 2, 6])  # of the scores: ties within and across images
    most = draw.choice([1, 4, 8, 40])
    truth = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "sample": f"S{i % 5}"} for i in images],
        "categories": [{"id": k, "name": f"c{k}"} for k in categories],
        "annotations": [],
    }
    results = []
    for image in images:
        for _ in range(draw.randrange(most + 1)):
            x, y = draw.uniform(0, 300), draw.uniform(0, 300)
            if draw.random() < 0.3:
                x, y = round(x), round(y)
            w, h = draw.choice([8, 32, 40, 110, 0.5]), draw.choice([10, 32, 50, 100, 96])
            category = draw.choice(categories)
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": image,
                    "category_id": category,
                    "bbox": [x, y, w, h],
                    "area": draw.choice([w * h, w * h * 0.6, 32 * 32, 96 * 96]),
                    "iscrowd": int(draw.random() < crowds),
                    "ignore": draw.choice([0, 1]),
                }
            )
            for _ in range(draw.randrange(4)):
                moved = draw.choice([0, 2, 8])
                wide = w * draw.choice([1, 1, 1, 0.5, 0.75, 2])
                place = [x + draw.gauss(0, moved), y + draw.gauss(0, moved)]
                box = [*place, wide, h * draw.uniform(0.8, 1.2)]
                results.append(
                    found(image, draw.choice([*categories, category]), box, draw, digits)
                )
        if draw.random() < 0.1:
            for _ in range(130):  # more than the 100 that count
                box = [draw.uniform(0, 400), draw.uniform(0, 400)]
                box += [draw.uniform(0, 60), draw.uniform(0, 60)]
                results.append(found(image, categories[0], box, draw, digits))
    draw.shuffle(results)
    return truth, results


def found(image, category, box, draw, digits):
    score = round(draw.random(), digits)
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


def pycocotools_says(truth, results):
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(truth)
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(copy.deepcopy(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def drawn(truth, results, times):
    """The data set with image i there times[i] times, side by side, in the order of ids."""
    copies = {"images": [], "categories": truth["categories"], "annotations": []}
    copied = []
    for image, often in zip(sorted(truth["images"], key=lambda i: i["id"]), times, strict=True):
        for _ in range(often):
            new = len(copies["images"]) + 1
            copies["images"].append({**image, "id": new})
            for box in truth["annotations"]:
                if box["image_id"] == image["id"]:
                    number = len(copies["annotations"]) + 1
                    copies["annotations"].append({**box, "image_id": new, "id": number})
            copied += [{**r, "image_id": new} for r in results if r["image_id"] == image["id"]]
    return copies, copied


def class_means(precision):
    """Mean of pycocotools' [.., recall, class] over all but the class; NaN without a truth."""
    flat = precision.reshape(-1, precision.shape[-1])
    return np.where((flat > -1).all(axis=0), flat.mean(axis=0), np.nan)
