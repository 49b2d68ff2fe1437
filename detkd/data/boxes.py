"""Boxes of one image: which stay, which are cut, which leave, and why."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from detkd.data.records import (
    DROPPED_BOX,
    KEPT,
    MENDED,
    BoxRecord,
    ImageRecord,
    Problem,
)

TINY = 2.0  # px: a narrower box is kept, and told
SLACK = 0.1  # px that rounded fractions may reach over the edge unsaid
NEAR = 0.9  # IoU from which two boxes are told as one object twice
WHOLE = 0.99  # share of both sides from which a box is told as one of the whole image
PART = 0.5  # share of the boxes that a whole tree's fault has to be seen in


Place = tuple[str, float, float, float, float]


def examine_boxes(
    image: ImageRecord, *, whole_frames: bool = False
) -> tuple[tuple[BoxRecord, ...], list[Problem]]:
    """The boxes that stay, clipped, and what was wrong; the image knows its real size.

    With `whole_frames` a box of the whole image is what the format means.
    """
    problems: list[Problem] = []
    kept: dict[tuple[Place, bool], Numbered] = {}
    width, height = image.width, image.height
    for at, box in enumerate(image.boxes):
        place = box[:5]  # its class and its sides
        if _is_usual(place, width, height):
            sound = box
        else:
            mended, found = _examine_box(box, at, image, whole_frames)
            problems += found
            if mended is None:
                continue
            sound = mended
            place = sound[:5]
        key = place, sound.crowd  # a crowd is no double of an object that fills it
        if key in kept:
            message = "stands there twice"
            problems.append(
                Problem(
                    "double box", image.file, where_of(at, box), message, DROPPED_BOX, box=box.xyxy
                )
            )
        else:
            kept[key] = at, sound
    for (first, one), (second, other) in _near_pairs(list(kept.values())):
        if one.label == other.label:
            kind = "near-double box"
            message = f"covers nearly the same as box {first + 1}"
        else:
            kind = "two classes on one object"
            message = f"covers nearly the same as box {first + 1} ({one.label})"
        problems.append(
            Problem(kind, image.file, where_of(second, other), message, KEPT, box=other.xyxy)
        )
    return tuple([box for _, box in kept.values()]), problems


def where_of(at: int, box: BoxRecord) -> str:
    return f"box {at + 1} ({box.label})"


def _is_usual(place: Place, width: int, height: int) -> bool:
    """Whether there is nothing to say of a box, as of nearly all; `_examine_box` says the rest."""
    _, xmin, ymin, xmax, ymax = place
    return (
        xmin >= 0
        and ymin >= 0
        and xmax <= width
        and ymax <= height
        and xmax - xmin >= TINY
        and ymax - ymin >= TINY
        and (xmax - xmin < WHOLE * width or ymax - ymin < WHOLE * height)
    )


def _examine_box(
    box: BoxRecord, at: int, image: ImageRecord, whole_frames: bool
) -> tuple[BoxRecord | None, list[Problem]]:
    where = where_of(at, box)

    def drop(kind: str, message: str) -> tuple[None, list[Problem]]:
        return None, [Problem(kind, image.file, where, message, DROPPED_BOX, box=box.xyxy)]

    if not all(map(math.isfinite, box.xyxy)):
        return drop("not finite", f"{_said(box)} is not finite")
    width, height = box.xmax - box.xmin, box.ymax - box.ymin
    if width <= 0 or height <= 0:
        kind = "empty box" if width == 0 or height == 0 else "inverted box"
        return drop(kind, f"{_said(box)} has no area")
    clipped = box
    if min(box.xmin, box.ymin) < 0 or box.xmax > image.width or box.ymax > image.height:
        clipped = box._replace(
            xmin=min(max(box.xmin, 0.0), float(image.width)),
            ymin=min(max(box.ymin, 0.0), float(image.height)),
            xmax=min(max(box.xmax, 0.0), float(image.width)),
            ymax=min(max(box.ymax, 0.0), float(image.height)),
        )
    if clipped.xmax <= clipped.xmin or clipped.ymax <= clipped.ymin:
        size = f"{image.width}x{image.height}"
        return drop("box outside", f"{_said(box)} lies outside the {size} image")
    problems: list[Problem] = []

    def tell(kind: str, message: str, action: str) -> None:
        problems.append(Problem(kind, image.file, where, message, action, box=box.xyxy))

    over = max(abs(a - b) for a, b in zip(box.xyxy, clipped.xyxy, strict=True))
    if over > SLACK:
        message = f"{_said(box)} reaches {over:.6g} px over the edge; clipped"
        tell("box over the edge", message, MENDED)
    if over and "area" in clipped.extra and "segmentation" not in clipped.extra:
        # The stated area was that of the box before it was clipped.
        extra = {key: value for key, value in clipped.extra.items() if key != "area"}
        clipped = clipped._replace(extra=extra)
    width, height = clipped.xmax - clipped.xmin, clipped.ymax - clipped.ymin
    if min(width, height) < TINY:
        message = f"is {width:.3g} x {height:.3g} px"
        tell("tiny box", message, KEPT)
    if whole_frames:
        return clipped, problems
    if width >= WHOLE * image.width and height >= WHOLE * image.height:
        tell("box of the whole image", "covers it all", KEPT)
    return clipped, problems


def _said(box: BoxRecord) -> str:
    return "[" + ", ".join(f"{value:.6g}" for value in box.xyxy) + "]"


Numbered = tuple[int, BoxRecord]


def _near_pairs(boxes: list[Numbered]) -> Iterator[tuple[Numbered, Numbered]]:
    """Pairs of boxes that overlap nearly whole, each later box once, with an earlier one."""
    boxes = sorted(boxes, key=lambda each: each[1][1])  # xmin
    told: set[int] = set()
    for at, (first, one) in enumerate(boxes):
        reach = one[1] + (1 - NEAR) * (one[3] - one[1])  # farther off, IoU cannot be reached
        for next_ in range(at + 1, len(boxes)):
            second, other = boxes[next_]
            if other[1] > reach:
                break
            if not one.crowd and not other.crowd and _iou(one, other) >= NEAR:
                pair = sorted(((first, one), (second, other)), key=lambda each: each[0])
                if pair[1][0] not in told:
                    told.add(pair[1][0])
                    yield pair[0], pair[1]


def _iou(one: BoxRecord, other: BoxRecord) -> float:
    width = min(one.xmax, other.xmax) - max(one.xmin, other.xmin)
    height = min(one.ymax, other.ymax) - max(one.ymin, other.ymin)
    if width <= 0 or height <= 0:
        return 0.0
    areas = sum((box.xmax - box.xmin) * (box.ymax - box.ymin) for box in (one, other))
    return width * height / (areas - width * height)


@dataclass
class RuleWatch:
    """Whether the boxes of a tree, all together, betray another coordinate rule than was used."""

    boxes: int = 0
    as_corners: int = 0  # leave the image as [x, y, w, h], and fit as [xmin, ymin, xmax, ymax]
    as_fractions: int = 0  # px from 0 to 1 only
    as_pixels: int = 0  # fractions far above 1
    one_over: int = 0  # reach one px over the far edge, as a width counted from 1 does
    at_zero: int = 0

    def look(self, image: ImageRecord, fractions: bool) -> None:
        w, h = image.width, image.height
        self.boxes += len(image.boxes)
        for box in image.boxes:
            _, x1, y1, x2, y2 = box[:5]
            if x1 > 0 and y1 > 0 and 1 < x2 <= w and 1 < y2 <= h:
                continue  # a box of px inside the image, as nearly all, betrays nothing
            self.as_pixels += fractions and (x2 > 2 * w or y2 > 2 * h)
            self.as_fractions += not fractions and max(x2, y2) <= 1 and min(x1, y1) >= 0
            over = x2 > w + 1 or y2 > h + 1
            corners = x1 < x2 - x1 <= w and y1 < y2 - y1 <= h
            self.as_corners += not fractions and over and corners
            self.one_over += x2 == w + 1 or y2 == h + 1
            self.at_zero += x1 == 0 or y1 == 0

    def problems(self, rule: str) -> list[Problem]:
        """The fault of the whole tree, if most of its boxes show one."""
        most = max(1, PART * self.boxes)
        found = []
        if self.as_pixels >= most:
            found.append(f"{self.as_pixels} of {self.boxes} boxes look like px, not fractions")
        if self.as_fractions >= most:
            found.append(f"{self.as_fractions} of {self.boxes} boxes look like fractions, not px")
        # Boxes in the upper left quarter fit both readings; a few that do not are enough.
        if rule in ("coco", "csv-sides") and self.as_corners >= max(1, 0.1 * self.boxes):
            found.append(
                f"{self.as_corners} of {self.boxes} boxes leave the image as [x, y, width, height] "
                "and fit as [xmin, ymin, xmax, ymax]"
            )
        if rule == "voc-zero-based" and self.one_over and not self.at_zero:
            found.append(
                f"{self.one_over} boxes reach one px over the far edge and none is at 0: "
                "the files count from 1"
            )
        return [Problem("other coordinate rule", None, "", each, KEPT) for each in found]
