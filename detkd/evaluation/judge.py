"""Everything that is known about a set of results, as one document (metrics.json)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detkd.evaluation.bootstrap import bootstrap_numbers
from detkd.evaluation.case import Case, build_case
from detkd.evaluation.coco_map import Engine, coco_numbers
from detkd.evaluation.counts import count_errors
from detkd.evaluation.results import Result
from detkd.evaluation.voc_map import voc_numbers


def judge(
    truth: dict[str, Any], results: Sequence[Result], *, bootstrap: int = 0
) -> dict[str, Any]:
    """COCO and VOC mAP, per class, counts, and with `bootstrap` > 0 intervals over samples."""
    return judge_case(build_case(truth, results), bootstrap=bootstrap)


def judge_case(case: Case, *, bootstrap: int = 0, engine: Engine = "hotcoco") -> dict[str, Any]:
    """As `judge`, of a case."""
    return {
        **coco_numbers(case, engine=engine),
        "voc": voc_numbers(case),
        "counts": count_errors(case),
        "intervals": bootstrap_numbers(case, draws=bootstrap) if bootstrap else {},
    }
