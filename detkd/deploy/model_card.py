"""README.md of an exported model: what it is, what was measured, what it is not for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detkd.data.card import Card
from detkd.models.detector import Detector

USE = """\
## Use

    pip install onnxruntime numpy opencv-python-headless pillow
    python runner.py FRAMES --out found
    python counting.pyz found --out counts

finds the objects of an image, a folder, a TIFF stack, a video or a camera's folder (`--watch`),
and makes counts and, with a chamber's depth or a volume, cells per litre of them. `detkd.json` says
all that another program needs. `model_parts/` holds the two networks without non-maximum
suppression and RoIAlign, for runtimes that lack them.

## Limits

It was made to find objects like those of its training data, in frames of the same microscope,
magnification and preparation. On others its figures are unknown: judge it there first. It gives
one of its classes to whatever it finds; what it was never shown is missed or misnamed. Scores are
no probabilities. It is no medical device.
"""


def model_card(
    detector: Detector,
    description: Mapping[str, Any],
    parity: Mapping[str, Any],
    card: Card | None,
    truth: Path | None,
) -> str:
    """The page, in Markdown, of what detkd.json and parity.json say and of the data's card."""
    config = detector.config
    parameters = sum(parameter.numel() for parameter in detector.parameters())
    backbone = sum(parameter.numel() for parameter in detector.backbone.body.parameters())
    scale = description["um_per_px"]
    facts = {
        "made by": f"detkd {description['detkd']}, ONNX opset {description['opset']}",
        "detector": f"Faster R-CNN, {config.backbone} with {config.neck} "
        f"({', '.join(config.levels)}), {config.neck_channels} channels",
        "parameters": f"{parameters:,}, of these {backbone:,} in the backbone",
        "longest side of a frame": f"{description['image_size']} px",
        "detections a frame": f"at most {description['detections']}",
        "scale": f"{scale:g} µm a pixel of the camera's frame" if scale else "not said",
    }
    lines = [f"# A detector of {len(detector.classes)} classes", "", *_table(facts), ""]
    lines += ["## Data", "", *_data(card, description), ""]
    lines += ["## Classes", "", "| class | counts from score | shape |", "| --- | ---: | --- |"]
    lines += [
        f"| {_plain(name)} | {score:.3f} | {description['shapes'].get(name, '')} |"
        for name, score in description["thresholds"].items()
    ]
    lines += ["", "## Measured", "", *_measured(parity, truth), "", USE]
    return "\n".join(lines)


def _table(facts: Mapping[str, str]) -> list[str]:
    return ["| | |", "| --- | --- |", *(f"| {key} | {_plain(facts[key])} |" for key in facts)]


def _data(card: Card | None, description: Mapping[str, Any]) -> list[str]:
    trained = description["training"]["config"].get("data", {}).get("train", "not said")
    if card is None:
        return [f"Trained on `{trained}`; no data-set card was given, so its licence is not said."]
    facts = {
        "data": card.title or "not said",
        "licence": card.licence or "not said",
        "source": card.address or "not said",
        "cite": card.citation or "not said",
        "trained on": str(trained),
    }
    known = [f"- Known of the data: {_plain(defect)}." for defect in card.known_defects]
    return [*_table(facts), *([""] if known else []), *known]


def _measured(parity: Mapping[str, Any], truth: Path | None) -> list[str]:
    lines = [
        f"- {parity['images']} images and {parity['made']} made frames, {parity['detections']} "
        f"detections: boxes within {parity['box_px']:.2g} px and scores within "
        f"{parity['score']:.2g} of the checkpoint's, {parity['ties']} ties. " + _verdict(parity)
    ]
    for each in parity.get("variants", []):
        lines.append(
            f"- {each['name']}: {'kept' if each['kept'] else 'refused'}, it {each['why']}."
        )
    if parity["map_exported"] is None:
        return [
            *lines,
            "- Accuracy was not measured: there was no ground truth with boxes.",
        ]
    lines.append(
        f"- mAP (COCO) on `{truth}`: {parity['map_exported']:.4f}{_limits(parity)}, the "
        f"checkpoint {parity['map_checkpoint']:.4f}."
    )
    return [*lines, *_figures(parity["figures"])]


def _verdict(parity: Mapping[str, Any]) -> str:
    if parity["faults"]:
        return f"**It did not pass: {'; '.join(parity['faults'])}. Do not use it.**"
    if parity["left_out"]:
        return f"It passed, but was not compared on {'; '.join(parity['left_out'])}."
    return "It passed."


def _figures(figures: Mapping[str, Any]) -> list[str]:
    """Class by class, and how far off counts are."""
    off = figures["counts"]
    by_sample = off.get("sample_mean_absolute_error")
    sampled = by_sample is not None
    lines = [
        "- Counted from the scores above on: in the mean "
        f"{off['mean_absolute_error']:.2f} objects an image too many or too few (bias "
        f"{off['bias']:+.2f})"
        + (f", {by_sample:.2f} a sample (bias {off['sample_bias']:+.2f})" if sampled else "")
        + f"; {off['counted']} counted where {off['annotated']} are.",
        "",
        "| class | AP | 95 % interval | precision | recall | counted | annotated |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for name, row in figures["per_class"].items():
        low_high = " to ".join(f"{limit:.3f}" for limit in row["interval"] or ())
        shares = [_share(row[key]) for key in ("precision", "recall")]
        cells = [_plain(name), _share(row["AP"]), low_high, *shares, row["counted"]]
        lines.append(f"| {' | '.join(map(str, [*cells, row['annotated']]))} |")
    said = "Precision and recall at overlap 0.5, from the class's score on; AP over all scores."
    return [*lines, "", said]


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _limits(parity: Mapping[str, Any]) -> str:
    said = parity["map_interval"]
    if said is None:
        return ""
    low, high = said["AP"]
    return (
        f" ({low:.4f} to {high:.4f}, {said['level']:.0%} of {said['draws']} draws of "
        f"{said['groups']} {said['unit']}s)"
    )


def _plain(text: str) -> str:
    """Nothing of a name becomes part of the table."""
    return " ".join(text.replace("|", "/").split())
