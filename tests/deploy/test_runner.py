"""The runner: frames in, tables out, each frame once, whatever happens meanwhile."""

import argparse
import csv
import itertools
import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
import venv
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import detkd
from detkd.cli.app import launch
from detkd.data.dataset import load_image
from detkd.deploy import parity, runner
from detkd.deploy.parity import together
from detkd.deploy.runner import Detections, Tile, merge, tiles_of
from detkd.pixels import eight_bit, read_pixels


class Bright:
    """A model that finds bright rectangles: all it is asked for, without a network."""

    classes = ("small", "large")
    image_size = 64
    thresholds = np.array([0.5, 0.9])
    um_per_px = None
    shapes: dict[str, str] = {}  # noqa: RUF012
    levels = None
    digest = "bright"
    origin = {"detkd": "0", "model": "bright"}  # noqa: RUF012

    def detect(self, frame):
        mask = (frame.mean(axis=0) > 0.5).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(mask)
        rows = [(x, y, x + w, y + h) for x, y, w, h, _ in stats[1:].tolist()]
        boxes = np.array(rows, np.float32).reshape(-1, 4)
        large = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0) > 12
        scores = np.where(large, 0.8, 0.7).astype(np.float32)
        return Detections(boxes, scores, large.astype(np.int64) + 1)


def options(source, out, *more):
    parser = argparse.ArgumentParser()
    runner.add_arguments(parser)
    return parser.parse_args([str(source), "--out", str(out), *more])


def go(source, out, *more, model=None):
    said = []
    tally = runner.run(model or Bright(), options(source, out, *more), said.append)
    return tally, said


def rows(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def scene(at, size=64):
    image = np.full((size, size, 3), 20, np.uint8)
    random_ = np.random.default_rng(at)
    for _ in range(at % 4):
        x, y = random_.integers(2, size - 12, 2)
        image[y : y + 8, x : x + 8] = 230
    return image


@pytest.fixture
def folder(tmp_path):
    frames = tmp_path / "frames"
    (frames / "b").mkdir(parents=True)
    for at in range(8):
        cv2.imwrite(str(frames / ("b" if at > 4 else ".") / f"{at}.png"), scene(at))
    return frames


# ------------------------------------------------------------------------------ reading


def files_of_every_kind(folder):
    rgb = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    deep = rgb.astype(np.uint16) * 257
    Image.fromarray(rgb).save(folder / "plain.png")
    Image.fromarray(rgb[..., 0]).save(folder / "grey.png")
    Image.fromarray(np.dstack([rgb, rgb[..., :1]])).save(folder / "alpha.png")
    Image.fromarray(rgb).save(folder / "plain.bmp")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rgb).save(folder / "turned.jpg", exif=exif, quality=95)
    cv2.imwrite(str(folder / "deep.png"), deep)
    Image.fromarray(deep[..., 0]).save(folder / "deep.tif")
    Image.fromarray(rgb[..., 0] / np.float32(255)).save(folder / "float.tif")
    cv2.imwrite(str(folder / "colour16.tif"), deep)
    pages = [Image.fromarray(np.roll(rgb, at, axis=0)) for at in range(3)]
    pages[0].save(folder / "stack.tif", save_all=True, append_images=pages[1:])


def test_frames_are_read_as_training_reads_them(tmp_path):
    files_of_every_kind(tmp_path)
    frames = [f for path in runner.files_below(tmp_path) for f in runner.frames_of(path, path.name)]
    names = {frame.name for frame in frames}
    assert len(names) == len(frames) == 12 and "stack.tif#page=3" in names
    for levels in (None, (500.0, 40000.0)):
        for path in runner.files_below(tmp_path):
            for frame in runner.frames_of(path, path.name):
                ours = runner.resized(runner.eight_bit(frame.load(), levels), 32)
                assert (ours == load_image(tmp_path / frame.name, 32, levels)[0]).all(), frame.name


def test_pillow_alone_reads_nearly_the_same(tmp_path, monkeypatch):
    files_of_every_kind(tmp_path)
    for name in ("colour16.tif", "deep.png"):  # need OpenCV, and say so
        (tmp_path / name).unlink()
    expected = {p.name: eight_bit(read_pixels(p), None) for p in sorted(tmp_path.glob("*.*"))}
    monkeypatch.setattr(runner, "cv2", None)
    for name, image in expected.items():
        frames = runner.frames_of(tmp_path / name, name)
        pixels = runner.eight_bit(next(frames).load(), None)
        assert np.abs(pixels.astype(int) - image).max() <= 4, name
    smooth = cv2.GaussianBlur(expected["plain.png"], (0, 0), 3)
    small, shrunk = runner.resized(smooth, 32), cv2.resize(smooth, (32, 21), interpolation=3)
    assert np.abs(small.astype(int) - shrunk).mean() < 1


def test_video_frames_have_numbers(tmp_path):
    film(tmp_path / "a.avi", 6)
    tally, _ = go(tmp_path / "a.avi", tmp_path / "out", "--every", "2")
    assert tally.found == 3
    names = [row["frame"] for row in rows(tmp_path / "out/frames.csv")]
    assert names == ["a.avi#frame=1", "a.avi#frame=3", "a.avi#frame=5"]


@pytest.mark.parametrize("every", [1, 4])
def test_a_film_that_is_done_is_not_gone_through_again(tmp_path, monkeypatch, every):
    film(tmp_path / "a.avi")
    go(tmp_path / "a.avi", tmp_path / "out", "--every", str(every))
    grabbed, grab = [], cv2.VideoCapture.grab

    class Counting:
        def __init__(self, path):
            self._video = cv2.VideoCapture(path)

        def grab(self):
            grabbed.append(1)
            return grab(self._video)

        def __getattr__(self, name):
            return getattr(self._video, name)

    for frames in (12, 16):  # one that has grown is gone through
        film(tmp_path / "a.avi", frames)
        with monkeypatch.context() as patch:
            patch.setattr(runner, "cv2", Doubled(VideoCapture=Counting))
            tally, _ = go(tmp_path / "a.avi", tmp_path / "out", "--every", str(every))
        assert (tally.found, len(grabbed)) == ((0, 0) if frames == 12 else (4 // every, 17))


class Doubled:
    """OpenCV, with some of its names taken by others."""

    def __init__(self, **others):
        vars(self).update(others)

    def __getattr__(self, name):
        return getattr(cv2, name)


def film(path, count=12):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 64))
    for at in range(count):
        writer.write(scene(at))
    writer.release()


@pytest.mark.parametrize("every", [1, 5])
def test_a_film_that_is_cut_off_says_so(tmp_path, every):
    film(tmp_path / "a.avi")
    whole = (tmp_path / "a.avi").read_bytes()
    (tmp_path / "a.avi").write_bytes(whole[: len(whole) * 8 // 10])
    tally, said = go(tmp_path / "a.avi", tmp_path / "out", "--every", str(every))
    *good, last = rows(tmp_path / "out/frames.csv")
    assert 0 < len(good) == tally.found and tally.failed == 1
    assert all(row["status"] == "found" for row in good) and last["status"] == "failed"
    assert "says that it has 12 frames" in last["note"] and last["note"] in said[0]


def test_a_stack_that_is_cut_off_keeps_its_pages_and_says_so(tmp_path):
    pages = [Image.fromarray(scene(at)) for at in range(4)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    whole = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(whole[: len(whole) * 6 // 10])
    tally, _ = go(tmp_path / "a.tif", tmp_path / "out")
    found = {row["frame"]: row["status"] for row in rows(tmp_path / "out/frames.csv")}
    assert found == {
        **dict.fromkeys(("a.tif#page=1", "a.tif#page=2"), "found"),
        "a.tif#page=3": "failed",  # half there
    }
    assert (tally.found, tally.failed) == (2, 1)
    (tmp_path / "a.tif").write_bytes(whole)
    tally, _ = go(tmp_path / "a.tif", tmp_path / "out")
    assert (tally.before, tally.found, tally.failed) == (2, 2, 0)
    last = {row["frame"]: row["status"] for row in rows(tmp_path / "out/frames.csv")}
    assert last == {f"a.tif#page={page}": "found" for page in range(1, 5)}


@pytest.mark.parametrize("big", [False, True], ids=["tiff", "bigtiff"])
def test_a_stack_that_grows_is_read_once_and_whole(tmp_path, big):
    """A file of one page has no number; the pages that come to it have."""
    pages = [Image.fromarray(scene(at)) for at in range(1, 4)]
    pages[0].save(tmp_path / "a.tif", big_tiff=big)
    go(tmp_path / "a.tif", tmp_path / "out")
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:], big_tiff=big)
    go(tmp_path / "a.tif", tmp_path / "out")
    names = [row["frame"] for row in rows(tmp_path / "out/frames.csv")]
    assert names == ["a.tif", "a.tif#page=2", "a.tif#page=3"]


@pytest.mark.parametrize("big", [False, True], ids=["tiff", "bigtiff"])
def test_pages_are_whole_when_all_of_them_is_there(tmp_path, big):
    pages = [Image.fromarray(scene(at)) for at in range(4)]
    path = tmp_path / "a.tif"
    pages[0].save(path, save_all=True, append_images=pages[1:], big_tiff=big)
    data = path.read_bytes()
    assert runner.whole_pages(path) == (4, "") and runner.is_whole(path)
    counts = []
    for end in range(8, len(data), 997):
        path.write_bytes(data[:end])
        counts.append(runner.whole_pages(path)[0])
        assert not runner.is_whole(path)
    assert counts == sorted(counts) and set(counts) == {0, 1, 2, 3}


def test_a_stack_of_any_size_is_read_and_pillow_is_left_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # twice as many are a bomb
    Image.fromarray(scene(0)).save(tmp_path / "a.tif")
    tally, _ = go(tmp_path / "a.tif", tmp_path / "out")
    assert (tally.found, tally.failed) == (1, 0)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_what_a_file_is_its_content_says(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), scene(3))
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    tally, _ = go(tmp_path, tmp_path / "out")
    assert (tally.found, tally.failed) == (1, 0)


def jpeg(thumbnail=b""):
    noise = np.random.default_rng(0).integers(0, 256, (600, 800, 3), np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    plain = cv2.imencode(".jpg", smooth, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    return plain[:2] + segment + plain[2:]


def test_what_lies_behind_a_jpeg_is_no_matter(tmp_path):
    """Phones put films there, cameras zeros."""
    for name, data in {
        "padded": jpeg() + bytes(9000),
        "film": jpeg() + b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 40,
        "zeros": jpeg()[:-2] + bytes(6) + b"\xff\xd9",
    }.items():
        (tmp_path / f"{name}.jpg").write_bytes(data)
    assert (go(tmp_path, tmp_path / "out")[0].found, len(list(tmp_path.glob("*.jpg")))) == (3, 3)


def test_a_jpeg_that_is_cut_off_or_damaged_fails(tmp_path, capfd):
    whole = jpeg(thumbnail=b"\xff\xd8 a picture of its own \xff\xd9")
    middle = len(whole) // 2
    damaged = {
        "cut": whole[:middle],
        "zeros": whole[:middle] + bytes(4096) + whole[middle + 4096 :],
        "lost": whole[:middle] + whole[middle + 4096 :],
    }
    for name, data in damaged.items():
        (tmp_path / f"{name}.jpg").write_bytes(data)
    (tmp_path / "whole.jpg").write_bytes(whole)
    tally, said = go(tmp_path, tmp_path / "out")
    assert (tally.found, tally.failed) == (1, 3)
    assert "cut off" in said[0] and all("Corrupt JPEG data" in each for each in said[1:])
    assert capfd.readouterr().err == ""


def test_a_png_with_a_wrong_checksum_fails(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), scene(3))
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[-20] ^= 1
    (tmp_path / "a.png").write_bytes(data)
    assert go(tmp_path, tmp_path / "out")[0].failed == 1


def test_pixels_that_are_no_numbers_of_a_camera_fail(tmp_path):
    cv2.imwrite(str(tmp_path / "a.hdr"), scene(3).astype(np.float32))
    (tmp_path / "a.hdr").rename(tmp_path / "a.jpg")
    cv2.imwrite(str(tmp_path / "b.png"), scene(3))
    tally, said = go(tmp_path, tmp_path / "out")
    assert (tally.found, tally.failed) == (1, 1) and "pixels of float32" in said[0]


def test_without_a_library_the_rest_is_found_and_with_it_all(tmp_path, monkeypatch):
    cv2.imwrite(str(tmp_path / "a.png"), scene(1).astype(np.uint16) * 15)
    Image.fromarray(scene(2)).save(tmp_path / "b.tif")
    Image.fromarray(scene(3)).save(tmp_path / "c.png")
    with monkeypatch.context() as patch:
        patch.setattr(runner, "Image", None)
        tally, said = go(tmp_path, tmp_path / "out")
    assert (tally.found, tally.failed) == (2, 1) and "pip install pillow" in said[0]
    assert go(tmp_path, tmp_path / "out")[0].found == 1
    with monkeypatch.context() as patch:
        patch.setattr(runner, "cv2", None)
        tally, said = go(tmp_path, tmp_path / "other")
    assert tally.failed == 1 and "16-bit colour PNG" in said[0]


# ------------------------------------------------------------------------------ tables


def test_tables_say_what_was_found(folder, tmp_path):
    out = tmp_path / "out"
    tally, _ = go(folder, out, "--coco", "--draw")
    frames = rows(out / "frames.csv")
    names = ["0.png", "1.png", "2.png", "3.png", "4.png", "b/5.png", "b/6.png", "b/7.png"]
    assert [row["frame"] for row in frames] == names and tally.found == 8
    found = rows(out / "results.csv")
    for at, row in enumerate(frames):
        own = [each for each in found if each["frame"] == row["frame"]]
        assert len(own) == int(row["detections"]) == cells(at)
        assert all(each["counted"] == ("1" if each["class"] == "small" else "0") for each in own)
    coco = json.loads((out / "results.json").read_text())
    assert len(coco["images"]) == 8 and len(coco["annotations"]) == len(found)
    first = coco["annotations"][0]
    x1, y1, x2, y2 = (float(found[0][side]) for side in ("x1", "y1", "x2", "y2"))
    assert first["bbox"] == [x1, y1, x2 - x1, y2 - y1] and first["image_id"] == 2
    assert cv2.imread(str(out / "drawn/b/7.png.jpg")).shape == (64, 64, 3)
    written = [path for path in out.rglob("*") if path.is_file()]
    assert len(written) == 4 + 8  # nothing hidden among them, and all for the same people to read
    assert {path.stat().st_mode for path in written} == {(out / "frames.csv").stat().st_mode}


def cells(at):
    return len(Bright().detect(scene(at).transpose(2, 0, 1) / np.float32(255)).scores)


def test_broken_frames_are_named_and_passed_over(folder, tmp_path):
    whole = (folder / "3.png").read_bytes()
    (folder / "3.png").write_bytes(whole[: len(whole) // 2])
    (folder / "4.png").write_bytes(b"")
    (folder / "4a.tif").write_bytes(b"II*\0nothing")
    (folder / "4b.mp4").write_bytes(b"nothing")
    (folder / "4c.png").symlink_to(folder / "nowhere.png")
    tally, said = go(folder, tmp_path / "out")
    failed = [row for row in rows(tmp_path / "out/frames.csv") if row["status"] == "failed"]
    assert {row["frame"] for row in failed} == {"3.png", "4.png", "4a.tif", "4b.mp4"}
    assert tally.failed == 4 and tally.found == 6 and all(row["note"] for row in failed)
    assert sum("passed over" in line for line in said) == 4


def test_names_that_tables_cannot_hold(tmp_path):
    frames = tmp_path / "frames"
    frames.mkdir()
    for at, name in enumerate(["a,b.png", 'c"d.png', "e\nf.png", "ö.png"]):
        cv2.imwrite(str(frames / "x.png"), scene(at + 1))
        (frames / "x.png").rename(frames / name)
    go(frames, tmp_path / "out")
    before = (tmp_path / "out/frames.csv").read_bytes()
    tally, _ = go(frames, tmp_path / "out")
    assert (tally.before, tally.found) == (4, 0)
    assert (tmp_path / "out/frames.csv").read_bytes() == before
    assert {row["frame"] for row in rows(tmp_path / "out/frames.csv")} == {
        *("a,b.png", 'c"d.png', "e\N{REPLACEMENT CHARACTER}f.png", "ö.png")
    }


@pytest.mark.parametrize(
    "more, part",
    [
        (["--tile", "-1"], "--tile -1"),
        (["--tile", "100", "--overlap", "60"], "--overlap 60"),
        (["--keep", "2"], "--keep"),
        (["--every", "0"], "--every"),
        (["--every", "2"], "other settings"),
        (["--settle", "-1"], "--settle"),
        (["--idle", "nan"], "--idle"),
        (["--skip-empty", "nan"], "--skip-empty"),
        (["--um-per-px", "0"], "--um-per-px"),
        (["--edges"], "other settings"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(more, part, folder, tmp_path):
    out = tmp_path / "out"
    go(folder, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(runner.RefusedError, match=part):
        go(folder, out, *more)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_the_time_left_is_that_of_the_files_that_are_left():
    """Files that were done before took none: 10 took a minute, and 30 are left."""
    assert runner.time_left(60, 10, 70, 100) == "; file 70 of 100, about 3 minutes left"
    assert runner.time_left(60, 10, 70, 0) == ""  # of a camera's folder nobody knows


def test_what_others_wrote_is_left_alone(folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "results.csv").write_text("mine\n")
    with pytest.raises(runner.RefusedError, match="not written by a run"):
        go(folder, out)
    assert (out / "results.csv").read_text() == "mine\n"
    with pytest.raises(runner.RefusedError, match="holds the frames"):
        go(folder, folder)
    with pytest.raises(runner.RefusedError, match="no such file"):
        go(tmp_path / "nowhere", tmp_path / "out2")


def test_a_source_without_frames_is_refused(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    for source in (tmp_path / "empty", folder / "*.tif"):
        with pytest.raises(runner.RefusedError, match="there is no image or video"):
            go(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name, change",
    [
        ("frames.csv", (b"\n", b"\r\n")),
        ("frames.csv", (b",", b";")),
        ("results.csv", (b"\n", b"\r\n")),
        ("results.csv", (b"0.70000", b"0.7")),
    ],
)
def test_tables_that_a_spreadsheet_saved_are_left_alone(folder, tmp_path, name, change):
    out = tmp_path / "out"
    go(folder, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    before[name] = before[name].replace(*change)
    (out / name).write_bytes(before[name])
    with pytest.raises(runner.RefusedError, match=f"{name}: its lines are not"):
        go(folder, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_failed_frame_is_tried_again_and_says_so_each_time(folder, tmp_path):
    whole = (folder / "3.png").read_bytes()
    (folder / "3.png").write_bytes(whole[:60])
    for before in (0, 7):  # nothing has changed, so nothing is written
        tally, said = go(folder, tmp_path / "out", "--coco")
        assert (tally.before, tally.failed) == (before, 1) and "3.png" in said[0]
        assert len(rows(tmp_path / "out/frames.csv")) == 8
    (folder / "3.png").write_bytes(whole)
    tally, _ = go(folder, tmp_path / "out", "--coco")
    assert (tally.before, tally.found, tally.failed) == (7, 1, 0)
    written = [
        row["status"] for row in rows(tmp_path / "out/frames.csv") if row["frame"] == "3.png"
    ]
    assert written == ["failed", "found"]
    assert len(json.loads((tmp_path / "out/results.json").read_text())["images"]) == 8
    more = ["--out", str(tmp_path / "n"), "--sample", "all"]
    assert launch("count", [str(tmp_path / "out"), *more]) == 0
    [sample] = json.loads((tmp_path / "n/counts.json").read_text())["samples"].values()
    assert sample["frames"] == {"found": 8, "empty": 0, "failed": 0}


def test_weights_that_lie_beside_a_model_are_part_of_its_digest(tmp_path):
    (tmp_path / "openvino.xml").write_text("the same graph")
    digests = set()
    for weights in (b"one", b"other"):
        (tmp_path / "openvino.bin").write_bytes(weights)
        digests.add(runner.digest_of(tmp_path / "openvino.xml"))
    assert len(digests) == 2


@pytest.mark.parametrize("change", [{"levels": (0.0, 4000.0)}, {"image_size": 32}])
def test_a_model_that_sees_otherwise_does_not_go_on(folder, tmp_path, change):
    go(folder, tmp_path / "out")
    model = Bright()
    vars(model).update(change)
    with pytest.raises(runner.RefusedError, match="was begun with other"):
        go(folder, tmp_path / "out", model=model)


def test_a_pattern_passes_over_what_a_run_drew(folder, tmp_path):
    for before in (0, 8):
        tally, _ = go(folder / "**/*.[pj][np]g", folder / "b/out", "--draw")
        assert (tally.before, tally.found) == (before, 8 - before)
    assert len(list((folder / "b/out/drawn").rglob("*.jpg"))) == 8


def test_tables_of_others_hide_no_frames(folder, tmp_path):
    (folder / "b/frames.csv").write_text("what a camera says of its frames\n")
    assert go(folder, tmp_path / "out")[0].found == 8
    assert go(folder / "**/*.png", tmp_path / "other")[0].found == 8


def test_each_frame_has_a_picture_of_its_own(tmp_path):
    frames = tmp_path / "frames"
    names = ["a/b.png", "a__b.png", f"{'c' * 120}/{'d' * 120}/e.png", f"{'f' * 251}.png"]
    for name in names:
        (frames / name).parent.mkdir(parents=True, exist_ok=True)
        (frames / name).write_bytes(cv2.imencode(".png", scene(3))[1].tobytes())
    tally, _ = go(frames, tmp_path / "out", "--draw")
    drawn = [path for path in (tmp_path / "out/drawn").rglob("*") if path.is_file()]
    assert tally.found == len(drawn) == len(names)
    assert runner.picture_name("../../x.png") == Path("x.png.jpg")


def test_two_runs_do_not_write_at_once(folder, tmp_path):
    journal = runner.Journal(tmp_path / "out", dict.fromkeys(runner.AGREED))
    with pytest.raises(runner.RefusedError, match="another run"):
        go(folder, tmp_path / "out")
    journal.close()


@pytest.mark.slow
def test_memory_holds_the_names_of_frames_and_no_more(tmp_path, monkeypatch):
    """Of 100,000 frames that is less than 40 MB."""
    monkeypatch.setattr(runner.Journal.__init__, "__defaults__", (0.0,))  # nothing is kept back
    cv2.imwrite(str(tmp_path / "one.png"), scene(3))
    peaks = {}
    for count in (200, 2000):
        frames = tmp_path / f"frames{count}"
        frames.mkdir()
        for at in range(count):
            os.link(tmp_path / "one.png", frames / f"{at:06}.png")
        tracemalloc.start()
        tally, _ = go(frames, tmp_path / f"out{count}")
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert tally.found == count
    assert peaks[2000] - peaks[200] < 1800 * 400


# ------------------------------------------------------------------------------ a run that stops


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    place = tmp_path_factory.mktemp("finished")
    (place / "frames").mkdir()
    for at in range(12):
        cv2.imwrite(str(place / f"frames/{at:02}.png"), scene(at))
    go(place / "frames", place / "out")
    return place, [(place / f"out/{name}").read_bytes() for name in ("frames.csv", "results.csv")]


@settings(max_examples=40)
@given(st.data())
def test_a_run_goes_on_from_any_torn_files(finished, tmp_path_factory, data):
    """Whatever of the tables reached the disk, the results in front of the frames they are of."""
    place, whole = finished
    lines = whole[0].splitlines(keepends=True)
    kept = data.draw(st.integers(0, len(lines)), label="whole rows")
    torn = lines[kept][: data.draw(st.integers(0, 40), label="torn")] if kept < len(lines) else b""
    frames = b"".join(lines[:kept]) + torn[:-1]
    frames += data.draw(st.sampled_from([b"", b"\0\0\0\0", b"garbage,\n"]), label="garbage")
    end = int(lines[kept - 1].split(b",")[5]) if kept > 1 else 0
    more = data.draw(st.integers(0, len(whole[1]) - end), label="more results")
    out = tmp_path_factory.mktemp("torn")
    (out / "run.json").write_bytes((place / "out/run.json").read_bytes())
    (out / "frames.csv").write_bytes(frames)
    (out / "results.csv").write_bytes(whole[1][: end + more])
    go(place / "frames", out)
    assert [(out / name).read_bytes() for name in ("frames.csv", "results.csv")] == whole


@pytest.mark.parametrize("call", [4, 5], ids=["results", "frames"])
def test_an_interrupt_while_rows_are_synced_writes_none_twice(finished, tmp_path, call):
    place, whole = finished
    sync, calls = os.fsync, itertools.count()  # the first calls are run.json's, and of folders

    def interrupted(handle):
        sync(handle)
        if next(calls) == call:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            go(place / "frames", tmp_path / "out")
    for name, expected in zip(("frames.csv", "results.csv"), whole, strict=True):
        assert expected.startswith((tmp_path / "out" / name).read_bytes())
    go(place / "frames", tmp_path / "out")
    tables = [(tmp_path / "out" / name).read_bytes() for name in ("frames.csv", "results.csv")]
    assert tables == whole


def command(exported, source, out, *more):
    keep = ["--keep", "0.01", "--threads", "1"]
    return [
        sys.executable,
        str(exported / "runner.py"),
        str(source),
        "--out",
        str(out),
        *keep,
        *more,
    ]


@pytest.mark.slow
def test_a_run_that_is_killed_ends_like_an_unbroken_one(model_folder, tmp_path):
    exported, _ = model_folder
    frames = tmp_path / "frames"
    frames.mkdir()
    for at in range(12):
        cv2.imwrite(str(frames / f"{at:03}.png"), scene(at, 96))
    tiles = ("--tile", "24")  # so that a frame takes a while
    subprocess.run(command(exported, frames, tmp_path / "whole", *tiles), check=True)
    out, dice, kills = tmp_path / "out", random.Random(0), 0
    for _ in range(30):
        process = subprocess.Popen(
            command(exported, frames, out, *tiles), stderr=subprocess.DEVNULL
        )
        before = size_of(out / "frames.csv")
        while process.poll() is None and size_of(out / "frames.csv") <= before + 100:
            time.sleep(0.01)
        time.sleep(dice.uniform(0, 0.3))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    assert process.wait() == 0 and kills > 0
    for name in ("frames.csv", "results.csv"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def size_of(path):
    return path.stat().st_size if path.exists() else 0


def test_a_full_disk_is_a_sentence_and_the_run_goes_on(model_folder, tmp_path):
    exported, _ = model_folder
    frames = tmp_path / "frames"
    frames.mkdir()
    for at in range(12):
        cv2.imwrite(str(frames / f"{at:03}.png"), scene(at, 96))
    subprocess.run(command(exported, frames, tmp_path / "whole"), check=True)
    limit = size_of(tmp_path / "whole/results.csv") // 2 + 700  # less than all, more than run.json
    assert size_of(tmp_path / "whole/results.csv") > limit > size_of(tmp_path / "whole/run.json")

    def full():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    out = tmp_path / "out"
    full_run = subprocess.run(
        command(exported, frames, out), preexec_fn=full, capture_output=True, text=True
    )
    assert full_run.returncode == 2
    told = full_run.stderr.splitlines()  # the model of the tests was compared in part
    assert len(told) == 2 and "in part" in told[0] and told[1].startswith("error: ")
    subprocess.run(command(exported, frames, out), check=True)
    for name in ("frames.csv", "results.csv"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


# ------------------------------------------------------------------------------ without torch

ALONE = ("numpy", "onnxruntime", "cv2", "PIL")


def test_it_runs_where_neither_torch_nor_detkd_is(model_folder, scenes, tmp_path):
    """In a virtual environment that has numpy, onnxruntime, OpenCV and Pillow, and no more."""
    exported, checkpoint = model_folder
    home = tmp_path / "venv"
    venv.create(home, with_pip=False)
    python = next((home / "bin").glob("python"))
    packages = next((home / "lib").glob("python*/site-packages"))
    for name in ALONE:
        place = Path(__import__(name).__file__).parent
        for each in place.parent.glob(f"{place.name}*"):
            (packages / each.name).symlink_to(each)
        for libraries in place.parent.glob("*.libs"):
            if not (packages / libraries.name).exists():
                (packages / libraries.name).symlink_to(libraries)
    for name in ("flatbuffers", "google", "packaging"):
        for each in Path(np.__file__).parent.parent.glob(name):
            (packages / each.name).symlink_to(each)
    for name in ("torch", "detkd"):
        missing = subprocess.run(
            [python, "-I", "-c", f"import {name}"], capture_output=True, cwd=tmp_path
        )
        assert missing.returncode == 1 and b"ModuleNotFoundError" in missing.stderr
    images = scenes / "scenes"
    alone = command(exported, images, tmp_path / "alone")[1:]
    subprocess.run([python, *alone], check=True, cwd=tmp_path, env={"PATH": os.environ["PATH"]})

    more = ["--keep", "0.01", "--threads", "1"]
    here = ["--checkpoint", str(checkpoint), "--out", str(tmp_path / "here")]
    assert launch("predict", [str(images), *here, *more]) == 0
    ours, theirs = (by_frame(tmp_path / name / "results.csv") for name in ("here", "alone"))
    assert ours.keys() == theirs.keys() and len(ours) == 12
    # Rounding to two digits, and equal scores at the last place of the list, leave a few apart.
    shared = sum(len(together(ours[name], theirs[name], slack=2)) for name in ours)
    for side in (ours, theirs):
        assert sum(len(found.scores) for found in side.values()) <= 1.01 * shared > 100


def by_frame(path):
    tables = {}
    for row in rows(path):
        tables.setdefault(row["frame"], []).append(row)
    return {
        name: parity.Found(
            np.array([[float(row[side]) for side in ("x1", "y1", "x2", "y2")] for row in found]),
            np.array([float(row["score"]) for row in found]),
            np.array([row["class"] for row in found]),
        )
        for name, found in tables.items()
    }


def test_predict_with_an_exported_folder_is_the_runner(model_folder, folder, tmp_path, capsys):
    exported, checkpoint = model_folder
    subprocess.run(command(exported, folder, tmp_path / "a"), check=True)
    more = ["--keep", "0.01", "--threads", "1", "--out", str(tmp_path / "b")]
    assert launch("predict", [str(folder), "--model", str(exported), *more]) == 0
    assert (tmp_path / "a/results.csv").read_bytes() == (tmp_path / "b/results.csv").read_bytes()
    capsys.readouterr()
    # Another model goes on with nothing of it.
    other = ["--checkpoint", str(checkpoint), "--keep", "0.01", "--out", str(tmp_path / "b")]
    assert launch("predict", [str(folder), *other]) == 2
    assert "was begun with a model of another digest" in capsys.readouterr().err
    for wrong in (["--model", str(folder)], ["--model", str(exported), "--thresholds", "x"]):
        assert launch("predict", [str(folder), *wrong, "--out", str(tmp_path / "c")]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1


def test_the_page_of_counts_says_which_model_found_the_objects(model_folder, folder, tmp_path):
    exported, checkpoint = model_folder
    models = {
        "small (model.onnx)": ["--model", str(exported)],
        "small (best.pt)": ["--checkpoint", str(checkpoint)],
    }
    for name, (model, argv) in zip("ab", models.items(), strict=True):
        found, counts = tmp_path / name, tmp_path / f"counts-{name}"
        assert launch("predict", [str(folder), *argv, "--out", str(found)]) == 0
        assert launch("count", [str(found), "--out", str(counts)]) == 0
        said = {"detkd": detkd.__version__, "model": model}
        assert json.loads((counts / "counts.json").read_text())["run"] == said
        [page] = counts.glob("*.html")
        assert model in page.read_text()


# ------------------------------------------------------------------------------ a camera's folder


def test_files_that_come_are_taken_when_complete_and_once(folder, tmp_path):
    out = tmp_path / "out"
    whole = (folder / "3.png").read_bytes()
    (folder / "3.png").write_bytes(whole[:60])
    watch = ("--watch", "--settle", "0.2", "--idle", "1.0")

    def camera():
        time.sleep(0.6)
        with (folder / "3.png").open("wb") as stream:
            stream.write(whole)
        cv2.imwrite(str(folder / "late.png"), scene(2))

    thread = threading.Thread(target=camera)
    thread.start()
    tally, _ = go(folder, out, *watch)
    thread.join()
    assert (tally.found, tally.failed) == (9, 0)
    cv2.imwrite(str(folder / "later.png"), scene(2))
    tally, _ = go(folder, out, *watch)
    assert (tally.before, tally.found) == (9, 1)
    names = [row["frame"] for row in rows(out / "frames.csv")]
    assert len(names) == len(set(names)) == 10


def test_a_file_that_stays_cut_off_fails_in_the_end(folder, tmp_path):
    whole = (folder / "3.png").read_bytes()
    (folder / "3.png").write_bytes(whole[:60])
    tally, _ = go(folder, tmp_path / "out", "--watch", "--settle", "0.05", "--idle", "1")
    assert (tally.found, tally.failed) == (7, 1)


def test_a_file_that_goes_again_keeps_nobody_waiting(folder, tmp_path):
    """A camera writes under another name first."""
    seen = []
    for path in runner.arriving(folder, settle=0.01, idle=0.05, done=set()):
        seen.append(path)
        if path is None and len(seen) == 1:
            (folder / "late.part.png").write_bytes(b"")
        elif path is None:
            (folder / "late.part.png").unlink(missing_ok=True)
    assert len([path for path in seen if path]) == 8


def test_a_stack_that_stops_and_goes_on_is_read_page_by_page(tmp_path):
    frames, stack = tmp_path / "frames", tmp_path / "whole.tif"
    frames.mkdir()
    pages = [Image.fromarray(scene(at)) for at in range(6)]
    pages[0].save(stack, save_all=True, append_images=pages[1:])
    whole = stack.read_bytes()
    (frames / "a.tif").write_bytes(whole[: len(whole) // 2])
    watch, failed = ("--watch", "--settle", "0.02", "--idle", "0.3"), "a.tif#page=4"

    def say(text):
        if failed in text:  # after ten times as long it is taken as it is
            (frames / "a.tif").write_bytes(whole)

    tally = runner.run(Bright(), options(frames, tmp_path / "out", *watch), say)
    assert (tally.found, tally.failed) == (6, 1)
    written = [(row["frame"], row["status"]) for row in rows(tmp_path / "out/frames.csv")]
    ends = [(f"a.tif#page={page}", "found") for page in range(1, 7)]
    assert written == [*ends[:3], (failed, "failed"), *ends[3:]]


def test_a_film_is_whole_when_it_has_the_length_that_it_says(tmp_path):
    film(tmp_path / "a.avi")
    whole = (tmp_path / "a.avi").read_bytes()
    assert runner.is_whole(tmp_path / "a.avi") is True
    (tmp_path / "a.avi").write_bytes(whole[:-1000])
    assert runner.is_whole(tmp_path / "a.avi") is False
    boxes = [(b"ftyp", b"isom"), (b"mdat", bytes(100)), (b"moov", bytes(20))]
    data = b"".join((len(body) + 8).to_bytes(4, "big") + name + body for name, body in boxes)
    for end in range(12, len(data) + 1):
        (tmp_path / "a.mp4").write_bytes(data[:end])
        assert runner.is_whole(tmp_path / "a.mp4") is (end == len(data))
    (tmp_path / "a.mkv").write_bytes(b"\x1aE\xdf\xa3 says nothing of its length")
    assert runner.is_whole(tmp_path / "a.mkv") is None


# ------------------------------------------------------------------------------ tiles


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(10, 800), st.floats(0, 0.5))
def test_tiles_cover_the_frame_and_share_what_they_should(width, height, side, share):
    overlap = int(side * share)
    tiles = tiles_of(width, height, side, overlap)
    xs = sorted({(tile.x1, tile.x2) for tile in tiles})
    ys = sorted({(tile.y1, tile.y2) for tile in tiles})
    assert len(tiles) == len(xs) * len(ys)
    for spans, length in ((xs, width), (ys, height)):
        assert spans[0][0] == 0 and max(end for _, end in spans) == length
        assert all(0 < end - begin <= side for begin, end in spans)
        for (_, end), (begin, _) in itertools.pairwise(spans):
            assert end - begin >= overlap


def beside(boxes, box):
    """Whether a box lies in none of the others; it may touch them."""
    return all(box[0] >= b[2] or box[2] <= b[0] or box[1] >= b[3] or box[3] <= b[1] for b in boxes)


@st.composite
def scenes_of_boxes(draw):
    """A frame's size, its tiles' side and overlap, and objects, of which some touch each other."""
    side = draw(st.integers(60, 120))
    overlap = draw(st.integers(16, side // 2))
    width, height = draw(st.integers(40, 300)), draw(st.integers(40, 300))
    boxes = []
    for _ in range(draw(st.integers(0, 25))):
        x, y = draw(st.integers(0, width - 8)), draw(st.integers(0, height - 8))
        if boxes and draw(st.booleans()):  # right of another one, or below it
            x1, y1, x2, y2 = boxes[-1]
            x, y = draw(st.sampled_from([(x2, y1), (x1, y2)]))
            x, y = min(x, width - 4), min(y, height - 4)
        # Now and then larger than what tiles share, so that no tile sees the whole.
        most = side if draw(st.integers(0, 4)) == 0 else overlap
        box = (x, y, min(x + draw(st.integers(4, most)), width))
        box = (*box, min(y + draw(st.integers(4, most)), height))
        if beside(boxes, box):
            boxes.append(box)
    return width, height, side, overlap, boxes


def seen(boxes, tile, least, random_):
    """What a detector sees of the objects in a tile: their part of it, if it is enough.

    Beside some of them lies junk, of scores that count nowhere, and as near as NMS leaves it.
    """
    found, labels, junk = [], [], []
    for at, (x1, y1, x2, y2) in enumerate(boxes):
        part = max(x1, tile.x1), max(y1, tile.y1), min(x2, tile.x2), min(y2, tile.y2)
        if part[2] - part[0] < least or part[3] - part[1] < least:
            continue
        if random_.random() < 0.3 and part != (x1, y1, x2, y2):
            at += 1  # of a piece, a detector may take the class for another
        found.append(part)
        labels.append(at % 3 + 1)
        if random_.random() < 0.3:
            # Off to the left, right, top or bottom, or around it.
            off = np.array([*0.35 * np.eye(2), *-0.35 * np.eye(2)])[random_.integers(4)]
            off = [*off, *off] if random_.random() < 0.7 else [-0.3, -0.3, 0.3, 0.3]
            size = part[2] - part[0], part[3] - part[1]
            junk.append(
                np.clip(np.add(part, np.multiply(off, size * 2)), tile[:2] * 2, tile[2:] * 2)
            )
    number = len(found)
    table = np.array(found + junk, np.float32).reshape(-1, 4)
    table += random_.uniform(-0.4, 0.4, table.shape)
    labels += random_.integers(1, 4, len(junk)).tolist()
    scores = np.append(random_.uniform(0.5, 1, number), random_.uniform(0.05, 0.2, len(junk)))
    return Detections(table, scores.astype(np.float32), np.array(labels, np.int64))


@settings(max_examples=150)
@given(scenes_of_boxes(), st.integers(2, 4), st.integers(0, 2**16))
def test_an_object_on_a_seam_counts_once(drawn, least, seed):
    width, height, side, overlap, boxes = drawn
    tiles = tiles_of(width, height, side, overlap)
    random_ = np.random.default_rng(seed)
    found = merge([seen(boxes, tile, least, random_) for tile in tiles], tiles, 1.0)
    assert (np.diff(found.scores) <= 0).all()
    counted = found.scores >= 0.5
    assert counted.sum() == len(boxes)
    truth = np.array(boxes, np.float32).reshape(-1, 4)
    for box in truth:  # and each where it is
        assert np.abs(found.boxes[counted] - box).max(axis=1).min() <= 0.41


TWO = [Tile(0, 0, 100, 100), Tile(60, 0, 160, 100)]


def merged(left, right, classes=(1, 1)):
    """Of two tiles, each with boxes (x1, y1, x2, y2, score): the scores and classes that stay."""
    found = [
        Detections(np.array(each, np.float32)[:, :4], np.array(each)[:, 4], np.full(len(each), at))
        for each, at in zip((left, right), classes, strict=True)
    ]
    found = merge(found, TWO, 1.0)
    scores = [round(score, 2) for score in found.scores.tolist()]
    return list(zip(scores, found.labels.tolist(), strict=True))


def test_junk_comes_not_between_the_two_boxes_of_an_object():
    left = [(70, 20, 80, 40, 0.9)]
    right = [(70, 26.3, 80, 46.3, 0.9), (70, 16, 80, 36, 0.06)]  # junk agrees better
    assert merged(left, right) == [(0.9, 1), (0.06, 1)]


def test_the_best_box_that_saw_the_whole_stays():
    """However deep it lies in its tile; a piece or junk says nothing of the class."""
    assert merged([(75, 20, 85, 40, 0.9)], [(74, 20, 84, 40, 0.3)]) == [(0.9, 1)]
    assert merged([(85, 20, 100, 40, 0.9)], [(85, 20, 110, 40, 0.7)], (1, 2)) == [(0.7, 2)]
    assert merged([(85, 20, 100, 40, 0.9)], [(88, 20, 100, 40, 0.1)], (1, 2)) == [(0.9, 1)]


def test_no_junk_takes_a_piece_away():
    piece, junk = (96, 20, 100, 24, 0.9), (90, 0, 130, 60, 0.06)
    assert merged([piece], [junk]) == [(0.9, 1), (0.06, 1)]
    assert merged([piece], [(*junk[:4], 0.6)]) == [(0.6, 1)]


def test_touching_neighbours_stay_two():
    """Two objects side by side on a seam, each seen by both tiles."""
    boxes = np.array([[70, 20, 80, 40], [80, 20, 90, 40]], np.float32)
    one = Detections(boxes, np.array([0.9, 0.8], np.float32), np.array([1, 1]))
    assert merge([one, one], TWO, 1.0).boxes.tolist() == boxes.tolist()


def test_large_frames_are_cut_and_counted_once(tmp_path):
    image = np.full((200, 300, 3), 20, np.uint8)
    places = [(x, y) for x in range(10, 280, 40) for y in range(10, 180, 40)]
    for x, y in places:
        image[y : y + 10, x : x + 10] = 230
    cv2.imwrite(str(tmp_path / "large.png"), image)
    tally, _ = go(tmp_path / "large.png", tmp_path / "out", "--tile", "64", "--overlap", "16")
    found = rows(tmp_path / "out/results.csv")
    assert len(found) == len(places) == tally.counted
    assert {(float(r["x1"]), float(r["y1"])) for r in found} == {
        (float(x), float(y)) for x, y in places
    }


def test_counting_frame_leaves_out_two_sides(tmp_path):
    image = np.full((64, 64, 3), 20, np.uint8)
    for x, y in ((0, 20), (20, 0), (56, 30), (30, 56), (30, 30)):
        image[y : y + 8, x : x + 8] = 230
    cv2.imwrite(str(tmp_path / "a.png"), image)
    tally, _ = go(tmp_path / "a.png", tmp_path / "out", "--edges")
    out = {(r["x1"], r["y1"]) for r in rows(tmp_path / "out/results.csv") if r["counted"] == "0"}
    assert tally.counted == 3 and out == {("0.00", "20.00"), ("20.00", "0.00")}


@pytest.mark.parametrize("tiles", [(), ("--tile", "64", "--overlap", "24")], ids=["whole", "tiled"])
def test_adjoining_fields_count_each_object_once(tmp_path, tiles):
    """A chamber of 3 by 3 fields; some objects lie across two fields or four.

    None ends within 3 px of a border: so little of an object, or of a gap, no detector sees.
    """
    side, dice = 96, random.Random(1)
    chamber = np.full((3 * side, 3 * side, 3), 20, np.uint8)
    objects = 0
    for x in range(8, 3 * side - 12, 20):
        for y in range(8, 3 * side - 12, 20):
            left, top = (
                at + next(o for o in dice.sample(range(8), 8) if clear(at + o, side))
                for at in (x, y)
            )
            chamber[top : top + 9, left : left + 9] = 230
            objects += 1
    for row in range(3):
        for column in range(3):
            field = chamber[row * side :, column * side :][:side, :side]
            cv2.imwrite(str(tmp_path / f"{row}{column}.png"), field)
    model = Bright()
    model.image_size = 64 if tiles else side
    assert objects == 14**2
    # Of the chamber's own left and upper side none is cut off, so all of them count.
    assert go(tmp_path, tmp_path / "out", "--edges", *tiles, model=model)[0].counted == objects
    assert go(tmp_path, tmp_path / "all", *tiles, model=model)[0].counted > objects


def clear(at, side, size=9):
    return all(min(end % side, -end % side) >= 3 for end in (at, at + size))


def test_tiles_larger_than_a_frame_show_it_at_their_own_scale():
    shown = []

    class Scale(Bright):
        def detect(self, frame):
            shown.append(frame.shape[1:])
            return super().detect(frame)

    image = np.zeros((400, 500, 3), np.uint8)
    for tile in (0, 1000, 250):
        settings_ = runner.Settings(tile=tile, overlap=tile // 4)
        runner.look_at(runner.Frame("a", lambda: image), Scale(), settings_)
    assert shown[:2] == [(51, 64), (26, 32)] and set(shown[2:]) == {(64, 64)}


def test_even_frames_are_less_busy_than_those_with_an_object(folder, tmp_path):
    even = np.random.default_rng(0).normal(120, 4, (480, 640, 3)).clip(0, 255).astype(np.uint8)
    one = even.copy()
    one[100:130, 200:230] = 60
    full = even.copy()
    for x in range(10, 600, 50):
        full[:, x : x + 25] = 60
    slope = (even * np.linspace(0.5, 1, 640)[:, None]).astype(np.uint8)
    assert max(map(runner.busyness, (even, slope))) < 1
    assert min(map(runner.busyness, (one, full))) > 8
    tally, _ = go(folder, tmp_path / "out", "--skip-empty", "5")
    empty = [row["frame"] for row in rows(tmp_path / "out/frames.csv") if row["status"] == "empty"]
    assert empty == ["0.png", "4.png"] and tally.empty == 2  # those without an object
    assert runner.busyness(np.zeros((1, 1, 3), np.uint8)) == 0


def test_from_frames_to_cells_per_litre(folder, tmp_path):
    """What the runner writes is what counting reads: 10 small cells in 8 fields of 64 nL."""
    out = tmp_path / "out"
    tally, _ = go(folder, out, "--um-per-px", "1")
    small = sum(row["class"] == "small" for row in rows(out / "results.csv"))
    assert tally.counted == small == 10
    counts = ["--out", str(tmp_path / "counts"), "--chamber-depth-um", "15.625", "--sample", "all"]
    assert launch("count", [str(out), *counts]) == 0
    said = json.loads((tmp_path / "counts" / "counts.json").read_text())
    assert "summary.html" in {path.name for path in (tmp_path / "counts").iterdir()}
    # 8 frames of 64 x 64 px of 1 µm, 15.625 µm deep: 512,000 µm³, which is 5.12e-7 mL.
    [sample] = said["samples"].values()
    expected = 10 / 5.12e-7 * 1000
    assert sample["classes"]["small"]["cells_per_l"] == pytest.approx(expected, rel=1e-6)
