"""Judge detections: COCO and VOC mAP, per class, counts, plots.

From result files:   detkd eval --gt val.json --dt predictions.json --out judged/
From a checkpoint:   detkd eval --gt val.json --checkpoint runs/bccd-student/best.pt --out judged/
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from detkd.cli.parser import build_parser


def main(argv: list[str]) -> int:
    parser = build_parser("eval", __doc__)
    parser.add_argument("--gt", required=True, type=Path, help="COCO ground truth")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--dt", type=Path, help="COCO results")
    source.add_argument("--checkpoint", type=Path, help="a detector to run on the images")
    parser.add_argument(
        "--out", type=Path, help="folder for metrics.json, predictions.json, plots/"
    )
    parser.add_argument("--images", type=Path, help="folder of the images (else the truth says)")
    parser.add_argument(
        "--bootstrap",
        type=int,
        default=0,
        metavar="N",
        help="draws for 95 %% intervals over samples (0: none)",
    )
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--batch-size", type=int, default=8)
    options = parser.parse_args(argv)

    from detkd.coco_json import read_json
    from detkd.data.formats.coco import image_root
    from detkd.evaluation.case import build_case
    from detkd.evaluation.judge import judge_case
    from detkd.evaluation.plots import plot_all
    from detkd.evaluation.results import check_results, check_truth
    from detkd.files import write_json

    truth = check_truth(read_json(options.gt, "name a COCO ground truth"), options.gt)
    if options.dt:
        results, unknown = check_results(
            read_json(options.dt, "name COCO results"), truth, options.dt
        )
        if unknown:
            print(f"{options.dt}: {unknown} detections of unknown categories were passed over")
    else:
        results = _detect(options)
    case = build_case(truth, results)
    metrics = judge_case(case, bootstrap=options.bootstrap)
    _show(metrics)
    if options.out:
        write_json(options.out / "metrics.json", metrics)
        write_json(options.out / "predictions.json", results)
        plot_all(
            case,
            options.out / "plots",
            images=options.images or image_root(options.gt, truth.get("info")),
        )
        print(f"written: {options.out}/metrics.json, predictions.json, plots/")
    return 0


def _detect(options: argparse.Namespace) -> list[dict[str, Any]]:
    from detkd.engine.devices import choose_device
    from detkd.engine.predict import open_for_judging, predict

    detector, dataset = open_for_judging(options.checkpoint, options.gt, options.images)
    return predict(
        detector, dataset, batch_size=options.batch_size, device=choose_device(options.device)
    )


def _show(metrics: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    console = Console()
    main_table = Table(title="COCO and VOC")
    numbers = {**metrics["coco"], **{f"VOC {k}": v for k, v in metrics["voc"].items()}}
    for name in ("measure", "value"):
        main_table.add_column(name, justify="left" if name == "measure" else "right")
    for name, value in numbers.items():
        main_table.add_row(name, number(value))
    console.print(main_table)
    classes = Table(title="per class")
    for name in ("class", "AP", "AP50", "AR100", "truths", "counted"):
        classes.add_column(name, justify="left" if name == "class" else "right")
    counts = metrics["counts"]["per_class"]
    for name, row in metrics["per_class"].items():
        shown = [number(row[key]) for key in ("AP", "AP50", "AR100")]
        classes.add_row(name, *shown, str(row["truths"]), str(counts[name]["counted"]))
    console.print(classes)
    for name in ("AP", "AP50"):
        if metrics["intervals"].get(name):
            low, high = metrics["intervals"][name]
            console.print(
                f"{name}: {low:.3f} to {high:.3f} (95 %, by {metrics['intervals']['unit']})"
            )
