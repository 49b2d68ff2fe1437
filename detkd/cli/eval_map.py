"""Judge detections: COCO and VOC mAP, intervals, counts, errors, pictures, as one page.

From results:        detkd eval --gt val.json --dt predictions.json --out judged/
                     (COCO JSON, a folder of YOLO texts with scores, or a CSV)
From a checkpoint:   detkd eval --gt val.json --checkpoint runs/bccd-student/best.pt --out judged/
Two result files:    detkd eval --gt test.json --dt a.json --against b.json
Scores that count:   detkd eval --gt val.json --dt val_found.json --choose-threshold f1 --out val/
                     detkd eval --gt test.json --dt found.json --thresholds val/thresholds.json
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from detkd.cli.parser import build_parser
from detkd.errors import DataError


def main(argv: list[str]) -> int:
    options = _parse(argv)

    from detkd.cli.judgement import choose, show, tell_flattered, tell_unknown
    from detkd.coco_json import read_json
    from detkd.data.formats.coco import image_root
    from detkd.evaluation.case import as_results, build_case
    from detkd.evaluation.counts import usual_thresholds, write_counts
    from detkd.evaluation.judge import analyse, judge_case
    from detkd.evaluation.paired import enough_draws, paired_test
    from detkd.evaluation.plots import plot_all, plot_analysis
    from detkd.evaluation.predictions import read_results
    from detkd.evaluation.report import write_report
    from detkd.evaluation.results import check_truth
    from detkd.evaluation.thresholds import read_thresholds, refuse_test
    from detkd.files import write_json

    truth = check_truth(read_json(options.gt, "name a COCO ground truth"), options.gt)
    if options.choose_threshold:
        refuse_test(options.gt, truth)  # before anything is run
    case = build_case(truth, _results(options, truth), options.dt or "results")
    tell_unknown(case, options.dt)
    if options.choose_threshold:
        choose(case, options.choose_threshold, truth, options.gt, options.out / "thresholds.json")
        options.thresholds = options.out / "thresholds.json"
    elif options.thresholds:
        tell_flattered(options.thresholds, options.gt)
    thresholds = read_thresholds(options.thresholds, case.names) if options.thresholds else None
    metrics = judge_case(
        case, bootstrap=options.bootstrap, engine=options.engine, thresholds=thresholds
    )
    if options.against:
        other = build_case(truth, read_results(options.against, truth), options.against)
        tell_unknown(other, options.against)
        paired = paired_test(case, other, draws=options.bootstrap or enough_draws(case))
        metrics["against"] = {"file": str(options.against), **paired}
    show(metrics)
    if options.out:
        metrics |= analyse(case, thresholds=thresholds, um_per_px=options.um_per_px)
        images = options.images or image_root(options.gt, truth.get("info"))
        plots = options.out / "plots"
        pictures = plot_analysis(case, metrics, plots)
        pictures |= plot_all(case, metrics, plots, images=images)
        counted = usual_thresholds(case) if thresholds is None else thresholds
        write_counts(case, counted, options.out / "counts.csv")
        write_json(options.out / "predictions.json", as_results(case))
        write_json(options.out / "metrics.json", metrics)
        title = f"{options.dt or options.checkpoint} on {options.gt}"
        write_report(metrics, pictures, title, options.out / "report.html")
        print(
            f"written: {options.out}/report.html, metrics.json, predictions.json, counts.csv, ..."
        )
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = build_parser("eval", __doc__)
    add = parser.add_argument
    add("--gt", required=True, type=Path, help="COCO ground truth")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--dt", type=Path, help="results: COCO JSON, folder of YOLO texts, or CSV")
    source.add_argument("--checkpoint", type=Path, help="a detector to run on the images")
    add("--against", type=Path, metavar="RESULTS", help="other results to be compared with")
    add("--out", type=Path, help="folder for report.html, metrics.json, counts.csv, plots/, ...")
    add("--images", type=Path, help="folder of the images (else the truth says)")
    add(
        "--bootstrap",
        type=int,
        default=0,
        metavar="N",
        help="draws for 95 %% intervals over samples (0: none; 1000 is usual)",
    )
    scores = parser.add_mutually_exclusive_group()
    scores.add_argument(
        "--choose-threshold",
        metavar="RULE",
        help="choose each class's score: f1, counts or precision=0.9; written to thresholds.json",
    )
    scores.add_argument("--thresholds", type=Path, metavar="FILE", help="scores chosen before")
    add("--um-per-px", type=float, metavar="UM", help="scale of images that do not say theirs")
    add("--engine", default="hotcoco", choices=["hotcoco", "pycocotools"], help="same numbers")
    add("--device", default="auto", choices=["auto", "cpu", "cuda"])
    add("--batch-size", type=int, default=8)
    options = parser.parse_args(argv)
    if options.bootstrap < 0:
        raise DataError(f"--bootstrap: {options.bootstrap} is negative; give 0 or more.")
    if options.choose_threshold and not options.out:
        raise DataError("--choose-threshold: name the folder for thresholds.json with --out.")
    return options


def _results(options: argparse.Namespace, truth: dict[str, Any]) -> Any:
    if options.dt:
        from detkd.evaluation.predictions import read_results

        return read_results(options.dt, truth)
    from detkd.engine.devices import choose_device
    from detkd.engine.predict import open_for_judging, predict

    detector, dataset = open_for_judging(options.checkpoint, options.gt, options.images)
    return predict(
        detector, dataset, batch_size=options.batch_size, device=choose_device(options.device)
    )
