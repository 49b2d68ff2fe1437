"""How sure a mAP is: percentile intervals from drawing the samples anew."""

from __future__ import annotations

import contextlib
import copy
import io
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools.cocoeval import COCOeval

from detkd.evaluation.coco_map import evaluate
from detkd.evaluation.results import Result


def bootstrap_map(
    truth: dict[str, Any],
    results: Sequence[Result],
    *,
    draws: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """Intervals of AP and AP50 over `draws` data sets drawn, with replacement, from this one.

    What is drawn is a sample (`images[].sample`), since images of one sample resemble each
    other; where none is named, an image. Each image is matched once by pycocotools and then
    counted as often as it was drawn.
    """
    groups = defaultdict(list)
    for image in truth["images"]:
        groups[image.get("sample", f"image {image['id']}")].append(image["id"])
    members = list(groups.values())
    evaluation = evaluate(truth, results)
    random = np.random.default_rng(seed)
    values: dict[str, list[float]] = {"AP": [], "AP50": []}
    for _ in range(draws):
        drawn = [
            image
            for at in random.integers(len(members), size=len(members))
            for image in members[at]
        ]
        precision = reaccumulate(evaluation, drawn)
        for name, part in (("AP", precision), ("AP50", precision[0])):
            known = part[part > -1]
            if known.size:
                values[name].append(float(known.mean()))
    tails = [50 * (1 - level), 100 - 50 * (1 - level)]
    return {
        "level": level,
        "draws": draws,
        "unit": "sample" if any("sample" in image for image in truth["images"]) else "image",
        **{
            name: [float(v) for v in np.percentile(found, tails)] if found else None
            for name, found in values.items()
        },
    }


def reaccumulate(evaluation: COCOeval, images: Sequence[Any]) -> np.ndarray:
    """Precision [overlap, recall, class] if the data set were `images`, repeats and all."""
    counted = copy.copy(evaluation)
    counted.params = copy.deepcopy(evaluation.params)
    counted._paramsEval = copy.deepcopy(evaluation._paramsEval)
    place = {image: at for at, image in enumerate(evaluation._paramsEval.imgIds)}
    areas, every = len(evaluation._paramsEval.areaRng), len(place)
    counted.evalImgs = [
        evaluation.evalImgs[(category * areas) * every + place[image]]
        for category in range(len(evaluation._paramsEval.catIds))
        for image in images
    ]
    # pycocotools looks images up by their ids: number the drawn ones anew, all areas alone.
    for params in (counted.params, counted._paramsEval):
        params.imgIds = list(range(len(images)))
        params.areaRng, params.areaRngLbl = params.areaRng[:1], params.areaRngLbl[:1]
    with contextlib.redirect_stdout(io.StringIO()):
        counted.accumulate()
    return counted.eval["precision"][:, :, :, 0, -1]
