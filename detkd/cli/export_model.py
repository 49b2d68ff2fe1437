"""A detector or classifier as an ONNX file, and the proof that it says what its checkpoint says.

    detkd export --checkpoint runs/bccd-distill/best.pt --gt datasets/bccd/val.json --out exported/

writes exported/model.onnx (resized frames in; boxes, scores, labels and their count out),
detkd.json (classes, sizes, thresholds), parity.json, a model card, and the programs that use it
without torch: runner.py and counting.pyz. Where the two differ, the folder is called
exported.failed/ instead, an earlier one stays, and the command ends 1. Of a classifier it writes
model.onnx (images in, logits of its head out), detkd.json and parity.json, for 'detkd classify';
where it can stop at exits, exits/ has it taken apart at them.
"""

from __future__ import annotations

import argparse
import re
import shutil
from pathlib import Path
from typing import Any

from detkd.cli.parser import build_parser
from detkd.errors import DataError


def main(argv: list[str]) -> int:
    options = _parse(argv)

    from rich.progress import Progress

    from detkd.data.dataset import CocoDataset
    from detkd.deploy import runner, variants
    from detkd.deploy.card_bodies import card_with_bodies
    from detkd.deploy.counting_app import write_app
    from detkd.deploy.description import describe
    from detkd.deploy.figures import figures
    from detkd.deploy.folder import export_folder, failed_place, refuse_other
    from detkd.deploy.gate import compare
    from detkd.deploy.model_card import model_card
    from detkd.deploy.onnx_model import (
        OnnxDetector,
        OnnxNetwork,
        needed,
        write_onnx,
        write_parts,
    )
    from detkd.deploy.pictures import write_pictures
    from detkd.engine.predict import images_for
    from detkd.files import write_atomic, write_json
    from detkd.models.detector import detector_from
    from detkd.models.weights import read_checkpoint

    needed()
    variants.needed(options.to)
    refuse_other(options.out)
    checkpoint = read_checkpoint(options.checkpoint)
    if checkpoint.get("network") == "classifier":
        return _export_classifier(options, checkpoint)
    detector = detector_from(checkpoint, options.checkpoint)
    dataset = None
    if options.gt:
        dataset = images_for(detector, options.checkpoint, options.gt, options.images)
    calibration = None
    if options.calibrate:
        calibration = CocoDataset(options.calibrate, image_size=detector.image_size, cache="none")
        calibration.levels = detector.levels or calibration.levels
    card = card_with_bodies(options.card) if options.card else None
    description = describe(
        detector, checkpoint["config"], dataset, options.thresholds, options.um_per_px, card
    )
    frames = options.made_frames + (len(dataset) if dataset is not None else 0)
    with export_folder(options.out) as building:
        folder = building.folder
        print("writing the graph ...", flush=True)
        write_onnx(detector, folder / "model.onnx")
        write_parts(detector, folder / "model_parts")
        with Progress(transient=True) as bar:
            task = bar.add_task("comparing", total=frames)
            gate = compare(
                detector,
                OnnxDetector(folder / "model.onnx"),
                OnnxNetwork(folder / "model_parts" / "convolutions.onnx"),
                OnnxNetwork(folder / "model_parts" / "region_head.onnx"),
                dataset=dataset,
                made_frames=options.made_frames,
                progress=lambda count: bar.advance(task, count),
            )
        shutil.copy(str(runner.__file__), folder)
        write_app(folder / "counting.pyz")
        document = gate.document()
        building.failed = bool(gate.faults)
        if gate.case is not None:
            document["figures"] = figures(gate.case, gate.intervals, description["thresholds"])
        if options.to and not gate.faults:
            assert dataset is not None
            measured = variants.try_variants(
                folder,
                options.to,
                dataset,
                calibration=calibration,
                frame=_frame(options.frame, detector.image_size),
                most_loss=options.max_loss,
            )
            description["variants"] = variants.described(measured)
            document["variants"] = variants.documented(measured)
        write_json(folder / "detkd.json", description)
        write_json(folder / "parity.json", document)
        write_pictures(gate.worst, folder / "worst")
        write_atomic(
            folder / "README.md", model_card(detector, description, document, card, options.gt)
        )
    print(
        f"{gate.images} images and {gate.made} made frames, {gate.detections} detections: boxes "
        f"within {gate.box_px:.2g} px, scores within {gate.score:.2g}, {gate.ties} ties "
        f"({gate.undecided} frames where rounding decides)"
    )
    if dataset is not None:
        print(
            f"mAP: checkpoint {gate.map_checkpoint or 0:.5f}, exported {gate.map_exported or 0:.5f}"
        )
    for each in document.get("variants", []):
        print(f"{each['name']}: {'kept' if each['kept'] else 'refused'}, it {each['why']}")
    if gate.faults:
        place = failed_place(options.out)
        stays = f" {options.out} is what it was." if options.out.exists() else ""
        print(
            f"no parity: {', '.join(gate.faults)}; {place}/parity.json names the frames, "
            f"{place}/worst shows them. Do not use this model.{stays}"
        )
        return 1
    if card is None:
        print("no data-set card (--card): the model's own lacks the licence and the cells' shapes")
    if gate.left_out:
        print(f"compared in part, without {', '.join(gate.left_out)}")
    print(f"written: {options.out}/model.onnx, runner.py, README.md (its card), ...")
    return 0


OF_DETECTORS = ("gt", "images", "thresholds", "card", "um_per_px", "to", "calibrate", "frame")


def _export_classifier(options: argparse.Namespace, checkpoint: dict[str, Any]) -> int:
    from detkd.deploy.class_export import export_classifier
    from detkd.deploy.folder import export_folder, failed_place
    from detkd.models.classifier import classifier_from

    for name in OF_DETECTORS:
        if getattr(options, name):
            flag = name.replace("_", "-")
            raise DataError(f"--{flag}: is for detectors, and {options.checkpoint} is none.")
    network = classifier_from(checkpoint, options.checkpoint)
    with export_folder(options.out) as building:
        print("writing the graph ...", flush=True)
        parity = export_classifier(network, checkpoint, building.folder, made=options.made_frames)
        building.failed = not parity["passed"]
    print(f"{parity['images']} made images: logits within {parity['logit']:.2g}")
    if not parity["passed"]:
        place = failed_place(options.out)
        print(f"no parity: more than {parity['allowed']:g} apart; do not use {place}/model.onnx.")
        return 1
    print(f"written: {options.out}/model.onnx, detkd.json, parity.json")
    return 0


def _frame(said: str | None, image_size: int) -> tuple[int, int] | None:
    """Height and width to which a camera's frames, 'WIDTHxHEIGHT' in px, are resized."""
    from detkd.deploy.runner import resized_size

    if said is None:
        return None
    width, height = map(int, said.lower().split("x"))
    return resized_size(width, height, image_size)[::-1]


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = build_parser("export", __doc__)
    add = parser.add_argument
    add("--checkpoint", required=True, type=Path, help="a best.pt")
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
    add("--card", type=Path, metavar="YAML", help="data-set card: licence, shapes of the classes")
    add("--um-per-px", type=float, metavar="UM", help="scale of the camera's frames")
    add(
        "--to",
        nargs="+",
        choices=("int8", "fp16", "openvino"),
        default=[],
        help="forms to make and measure as well; one stays if it is faster and loses little mAP",
    )
    add("--max-loss", type=float, default=0.005, metavar="MAP", help="mAP it may lose (0.005)")
    add("--calibrate", type=Path, metavar="COCO", help="training images, for int8")
    add("--frame", metavar="WxH", help="size of all camera frames, for OpenVINO alone")
    options = parser.parse_args(argv)
    if options.made_frames < 0 or not (options.made_frames or options.gt):
        raise DataError(
            f"--made-frames: {options.made_frames} leaves nothing to compare; give 1 or more."
        )
    if options.um_per_px is not None and not 0 < options.um_per_px < float("inf"):
        raise DataError(f"--um-per-px: {options.um_per_px} is no scale; give µm a pixel, above 0.")
    if options.to and not options.gt:
        raise DataError("--to: a form is judged before it is kept; name ground truth with --gt.")
    if "int8" in options.to and not options.calibrate:
        raise DataError(
            "--to int8: name training images to calibrate with, --calibrate TRAIN.json."
        )
    if options.frame and not re.fullmatch(r"[1-9]\d{0,4}[xX][1-9]\d{0,4}", options.frame):
        raise DataError(f"--frame: '{options.frame}' is no size; give WIDTHxHEIGHT in px.")
    return options
