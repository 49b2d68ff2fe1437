"""A detector as one ONNX file, and the proof that it finds what its checkpoint finds.

    detkd export --checkpoint runs/bccd-distill/best.pt --gt datasets/bccd/val.json --out exported/

writes exported/model.onnx (resized frames in; boxes, scores, labels and their count out),
detkd.json (classes, sizes, thresholds) and parity.json. Ends 1 if the two differ.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from detkd.cli.parser import build_parser
from detkd.errors import DataError


def main(argv: list[str]) -> int:
    options = _parse(argv)

    from rich.progress import Progress

    from detkd.deploy import runner
    from detkd.deploy.description import describe
    from detkd.deploy.folder import export_folder, refuse_other
    from detkd.deploy.gate import compare
    from detkd.deploy.onnx_model import (
        OnnxDetector,
        OnnxNetwork,
        needed,
        write_onnx,
        write_parts,
    )
    from detkd.deploy.pictures import write_pictures
    from detkd.engine.predict import open_for_judging
    from detkd.files import write_json
    from detkd.models.detector import Detector

    needed()
    refuse_other(options.out)
    dataset = None
    if options.gt:
        detector, dataset = open_for_judging(options.checkpoint, options.gt, options.images)
    else:
        detector = Detector.load(options.checkpoint)
    description = describe(
        detector, options.checkpoint, dataset, options.thresholds, options.um_per_px
    )
    frames = options.made_frames + (len(dataset) if dataset is not None else 0)
    with export_folder(options.out) as folder:
        print("writing the graph ...", flush=True)
        write_onnx(detector, folder / "model.onnx")
        write_parts(detector, folder / "model_parts")
        with Progress(transient=True) as bar:
            task = bar.add_task("comparing", total=frames)
            gate = compare(
                detector,
                OnnxDetector(folder / "model.onnx"),
                OnnxNetwork(folder / "model_parts" / "convolutions.onnx"),
                dataset=dataset,
                made_frames=options.made_frames,
                progress=lambda count: bar.advance(task, count),
            )
        write_json(folder / "detkd.json", description)
        shutil.copyfile(runner.__file__, folder / "runner.py")
        document = gate.document()
        write_json(folder / "parity.json", document)
        write_pictures(gate.worst, folder / "worst")
    print(
        f"{gate.images} images and {gate.made} made frames, {gate.detections} detections: boxes "
        f"within {gate.box_px:.2g} px, scores within {gate.score:.2g}, {gate.ties} ties "
        f"({gate.undecided} frames where rounding decides)"
    )
    if dataset is not None:
        print(
            f"mAP: checkpoint {gate.map_checkpoint or 0:.5f}, exported {gate.map_exported or 0:.5f}"
        )
    if gate.passed:
        print(f"written: {options.out}/model.onnx, detkd.json, parity.json")
        return 0
    worst = document["failed"]
    where = (
        f"{len(gate.failed)} frames differ, first {worst[0]['frame']}" if worst else "mAP differs"
    )
    print(
        f"no parity: {where}; {options.out}/parity.json names them, {options.out}/worst shows "
        "them. Do not use this model."
    )
    return 1


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = build_parser("export", __doc__)
    add = parser.add_argument
    add("--checkpoint", required=True, type=Path, help="a detector's best.pt")
    add("--out", required=True, type=Path, help="the folder to be written")
    add("--gt", type=Path, help="COCO ground truth on whose images both are compared and judged")
    add("--images", type=Path, help="folder of the images (else the truth says)")
    add(
        "--made-frames",
        type=int,
        default=1000,
        metavar="N",
        help="made frames (empty, crowded, black, odd sizes) on which both are compared (1000)",
    )
    add("--thresholds", type=Path, metavar="FILE", help="scores from which on a class counts")
    add("--um-per-px", type=float, metavar="UM", help="scale of the camera's frames")
    options = parser.parse_args(argv)
    if options.made_frames < 0 or not (options.made_frames or options.gt):
        raise DataError(
            f"--made-frames: {options.made_frames} leaves nothing to compare; give 1 or more."
        )
    if options.um_per_px is not None and not 0 < options.um_per_px < float("inf"):
        raise DataError(f"--um-per-px: {options.um_per_px} is no scale; give µm a pixel, above 0.")
    return options
