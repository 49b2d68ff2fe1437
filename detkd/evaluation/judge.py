"""Everything that is known about a set of results, as one document (metrics.json)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detkd.evaluation.bootstrap import bootstrap_map
from detkd.evaluation.coco_map import coco_map
from detkd.evaluation.counts import count_errors
from detkd.evaluation.results import Result
from detkd.evaluation.voc_map import voc_map


def judge(
    truth: dict[str, Any], results: Sequence[Result], *, bootstrap: int = 0
) -> dict[str, Any]:
    """COCO and VOC mAP, per class, counts, and with `bootstrap` > 0 intervals over samples."""
    return {
        **coco_map(truth, results),
        "voc": voc_map(truth, results),
        "counts": count_errors(truth, results),
        "intervals": bootstrap_map(truth, results, draws=bootstrap) if bootstrap else {},
    }
