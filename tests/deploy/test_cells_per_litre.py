"""Counts, concentrations, volumes and intervals against numbers worked out by hand."""

import base64
import csv
import io
import json
import math
import re
import shutil
import subprocess
import sys
import tracemalloc
from html.parser import HTMLParser
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image

from detkd.cli.app import launch
from detkd.deploy.counting import command
from detkd.deploy.counting.distributions import gamma_tails
from detkd.deploy.counting.errors import CountingError
from detkd.deploy.counting.intervals import (
    FrameCounts,
    bootstrap_interval,
    dispersion,
    interval_of,
    poisson_interval,
)
from detkd.deploy.counting.pictures import TALLEST
from detkd.deploy.counting.shapes import SHAPES, biconcave_disc, equivalent_diameter, named_shape
from detkd.deploy.counting_app import write_app

FRAMES = "frame,width,height,status,detections,end"
RESULTS = "frame,class,score,x1,y1,x2,y2,counted"


def write_run(folder, frames, results, **run):
    """A run: frames are (name, status), all of 200 x 100 px; results (name, class, score, box)."""
    folder.mkdir(parents=True, exist_ok=True)
    found = [row[0] for row in results]
    with (folder / "frames.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(FRAMES.split(","))
        for name, status in frames:
            table.writerow((name, 200, 100, status, found.count(name), 0))
    with (folder / "results.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(RESULTS.split(","))
        for name, label, score, *box in results:
            table.writerow((name, label, score, *(box or (10, 10, 30, 20)), int(score >= 0.5)))
    document = {
        "detkd": "0.1",
        "model": "model.onnx",
        "classes": ["a", "b"],
        "thresholds": {"a": 0.5, "b": 0.5},
        "um_per_px": None,
        "images": str(folder / "images"),
    }
    (folder / "run.json").write_text(json.dumps({**document, **run}))
    return folder


def count(capsys, found, *options):
    """What `counts.json` says, the folder, and what was printed."""
    out = found.parent / "counts"
    shutil.rmtree(out, ignore_errors=True)
    code = launch("count", [str(found), "--out", str(out), *map(str, options)])
    said = capsys.readouterr()
    assert code == 0, said.err
    return json.loads((out / "counts.json").read_text()), out, said.out


def refused(capsys, found, *options):
    out = found.parent / "counts"
    assert launch("count", [str(found), "--out", str(out), *map(str, options)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "Traceback" not in said and said.count("\n") == 1
    assert not out.exists() and not list(found.parent.glob(".counts*"))
    return said


@pytest.fixture
def small(tmp_path):
    """Four frames, one of which is empty and one failed; 3 cells of a, none of b."""
    frames = [("1.png", "found"), ("2.png", "found"), ("3.png", "empty"), ("4.png", "failed")]
    results = [
        ("1.png", "a", 0.9),
        ("1.png", "a", 0.8),
        ("2.png", "a", 0.7, 50, 50, 60, 70),
        ("2.png", "b", 0.45),
    ]
    return write_run(tmp_path / "found", frames, results)


# A box of 40 x 20 µm and a depth of 10 µm.
VOLUMES = {
    "sphere": 11847.69,  # d = √800 = 28.2843
    "half_sphere": 16755.16,  # of 40
    "prolate_spheroid": 8377.58,
    "oblate_spheroid": 16755.16,
    "ellipsoid": 4188.79,
    "cylinder": 12566.37,
    "disc": 25132.74,
    "disc_face": 6283.19,
    "capsule": 10471.98,  # cylinder of 20 x 20, 6283.19, and sphere of 20, 4188.79
    "cylinder_two_cones": 8377.58,  # cylinder of 20 x 20, and two cones of 10, 2094.40
    "cone": 4188.79,
    "double_cone": 4188.79,
    "cone_half_sphere": 5235.99,  # cone of 30, 3141.59, and half sphere of 20, 2094.40
    "box": 8000.0,
    "elliptic_prism": 6283.19,
    "half_elliptic_prism": 6283.19,
    "triangular_prism": 6928.20,
    "parallelogram_prism": 4000.0,
    "biconcave_disc": 4447.77,  # 94 · (28.2843/7.82)³
}


@pytest.mark.parametrize("shape", SHAPES)
def test_volumes(shape):
    assert SHAPES[shape](40.0, 20.0, 10.0) == pytest.approx(VOLUMES[shape], rel=1e-6)


def test_a_body_as_long_as_wide_is_round():
    for shape in ("prolate_spheroid", "oblate_spheroid", "ellipsoid", "capsule", "sphere"):
        assert SHAPES[shape](6.0, 6.0, 6.0) == pytest.approx(math.pi * 36)
    assert biconcave_disc(7.82, 7.82, 0) == pytest.approx(94)
    assert equivalent_diameter(math.pi * 36) == pytest.approx(6)


def test_names_of_shapes_as_lists_have_them():
    assert named_shape("Rotational ellipsoid", "") == "prolate_spheroid"
    assert named_shape("cylinder + 2 half spheres", "") == "capsule"
    assert named_shape("prism on elliptic base", "") == "elliptic_prism"
    with pytest.raises(CountingError, match=r"x: no shape 'cilinder'; did you mean 'cyl"):
        named_shape("cilinder", "x")


@pytest.mark.parametrize("card", ["bccd", "microalgae", "pmid2019", "synthetic"])
def test_cards_name_a_body_of_every_class(card):
    from detkd.cli.check_dataset import read_classes
    from detkd.cli.count_objects import shapes_of_card
    from detkd.shipped import shipped

    path = shipped("datasets", f"{card}.yaml")
    bodies = shapes_of_card(path)
    assert sorted(bodies) == sorted(read_classes(path))
    assert {body.shape for body in bodies.values()} <= set(SHAPES)


# Intervals


@pytest.mark.parametrize(
    ("number", "low", "high"),
    [
        (0, 0.0, 3.688879),
        (1, 0.025318, 5.571643),
        (10, 4.795389, 18.390356),
        (100, 81.3640, 121.6268),
    ],
)
def test_poisson_limits_are_those_of_the_tables(number, low, high):
    assert poisson_interval(number, 0.95) == pytest.approx((low, high), abs=5e-5)


def test_poisson_limits_are_scipys():
    """χ²(p; 2n)/2 is the quantile of the gamma distribution of shape n."""
    special = pytest.importorskip("scipy.special")
    for level in (0.5, 0.9, 0.95, 0.99, 0.9999):
        tail = (1 - level) / 2
        for number in (0, 1, 2, 3, 7, 20, 99, 1000, 12345, 100_000):
            low = special.gammaincinv(number, tail) if number else 0.0
            high = special.gammainccinv(number + 1, tail)
            assert poisson_interval(number, level) == pytest.approx((low, high), rel=1e-9)


def test_gamma_functions_are_scipys():
    special = pytest.importorskip("scipy.special")
    for shape in (0.5, 1, 3.5, 40, 5000):
        for x in (0.01, 0.5, 3, 41, 4900, 5100):
            expected = special.gammainc(shape, x), special.gammaincc(shape, x)
            assert gamma_tails(shape, x) == pytest.approx(expected, rel=1e-9, abs=1e-13)


def frame_counts(counts, exposure=None):
    if exposure is None:
        kinds, frames = np.unique(counts, return_counts=True)
        return FrameCounts(kinds, np.ones(len(kinds)), frames)
    return FrameCounts(np.array(counts), np.array(exposure, float), np.ones_like(counts))


def test_dispersion_by_hand():
    # mean 3, variance 12, X² = 36/3 = 12 with 3 degrees of freedom
    index, p = dispersion(frame_counts([0, 0, 6, 6]))
    assert index == pytest.approx(4) and p == pytest.approx(0.0073832, abs=1e-7)
    # a frame of twice the area is expected to have twice as many: no dispersion at all
    index, p = dispersion(frame_counts([2, 4, 2], [1, 2, 1]))
    assert index == pytest.approx(0) and p == pytest.approx(1)
    assert dispersion(frame_counts([0, 0])) is None
    assert dispersion(frame_counts([5])) is None


def test_auto_takes_the_bootstrap_where_counts_are_clumped():
    settings = {"level": 0.95, "draws": 1000, "seed": (0,)}
    even = interval_of(frame_counts([3, 2, 4, 3, 3, 2, 4, 3]), method="auto", **settings)
    assert even.method == "poisson" and (even.low, even.high) == poisson_interval(24, 0.95)
    clumped = frame_counts([0, 0, 0, 12, 0, 0, 12, 0])
    auto = interval_of(clumped, method="auto", **settings)
    assert auto.method == "bootstrap" and auto == interval_of(clumped, method="auto", **settings)
    low, high = poisson_interval(24, 0.95)
    assert auto.low <= low and auto.high > high and auto.p < 1e-6
    assert interval_of(clumped, method="poisson", **settings).high == high
    # nothing counted: no draw differs, and Poisson's upper limit stays
    nothing = interval_of(frame_counts([0, 0, 0]), method="bootstrap", **settings)
    assert (nothing.method, nothing.high) == ("poisson", pytest.approx(3.688879))


def test_the_note_names_the_classes_whose_counts_are_clumped(capsys, tmp_path):
    """Of one class by turns with another, so that their sum is even."""
    frames = [(f"{at}.png", "found") for at in range(16)]
    results = [(name, "ab"[at // 8], 0.9) for at, (name, _) in enumerate(frames) for _ in range(6)]
    _, _, said = count(capsys, write_run(tmp_path / "found", frames, results))
    assert "In 'all (a, b)' counts vary more from frame to frame" in said


def test_bootstrap_of_exposures_brings_draws_to_all_of_the_water():
    # as many a mL in every frame: every draw gives the same
    counts = frame_counts([1, 2, 3, 4], [1, 2, 3, 4])
    assert bootstrap_interval(counts, 0.95, 500, (1,)) == pytest.approx((10, 10))


# Variance over mean, frames, mean count of a frame.
CASES = [(1, 30, 3.0), (4, 10, 3.0), (4, 50, 3.0), (4, 100, 0.05)]


def test_coverage_of_the_intervals():
    """How often 95 % intervals hold the truth: of Poisson counts, and of clumped ones."""
    held = {}
    for variance, frames, mean in CASES:
        generator = np.random.default_rng(0)
        for at in range(300):
            if variance == 1:
                drawn = generator.poisson(mean, frames)
            else:
                drawn = generator.negative_binomial(mean / (variance - 1), 1 / variance, frames)
            counts = frame_counts(drawn)
            for method in ("poisson", "bootstrap", "auto"):
                found = interval_of(counts, method=method, level=0.95, draws=500, seed=(at,))
                inside = found.low <= frames * mean <= found.high
                held.setdefault((variance, frames, mean), {}).setdefault(method, []).append(inside)
    share = {case: {m: np.mean(v) for m, v in by.items()} for case, by in held.items()}
    for case, by in share.items():
        print(case, {method: round(100 * value) for method, value in by.items()})
    for (variance, _, _), by in share.items():
        assert by["auto"] >= (0.94 if variance == 1 else 0.89)
        assert variance == 1 or by["auto"] > by["poisson"] + 0.05
    assert share[4, 50, 3.0]["poisson"] < 0.75
    assert share[4, 100, 0.05]["auto"] > share[4, 100, 0.05]["bootstrap"] + 0.05


# Concentrations


def test_counts_without_a_volume(capsys, small):
    document, out, said = count(capsys, small)
    row = document["samples"]["all"]["classes"]["a"]
    assert row["count"] == 3 and row["cells_per_l"] is None and row["biovolume_um3"] is None
    assert (row["count_low"], row["count_high"]) == poisson_interval(3, 0.95)
    assert document["run"] == {"detkd": "0.1", "model": "model.onnx"}
    assert document["samples"]["all"]["frames"] == {"found": 2, "empty": 1, "failed": 1}
    assert "counts and no concentrations" in said and "no part of the imaged volume: 1." in said
    assert (out / "counts.csv").read_text() == (
        "frame,sample,a,b\n1.png,all,2,0\n2.png,all,1,0\n3.png,all,0,0\n"
    )
    lines = list(csv.DictReader((out / "samples.csv").open()))
    assert [(line["class"], line["count"], line["frames"]) for line in lines] == [
        ("a", "3", "3"),
        ("b", "0", "3"),
    ]
    assert lines[1]["count_high"] == "3.688879454" and lines[0]["cells_per_l"] == ""


@pytest.mark.parametrize(
    ("options", "imaged", "per_ml"),
    [
        (["--frame-volume-ml", 0.001], 0.003, 1000),
        # 3 frames of 200 x 100 px, 0.5 µm a px, 100 µm deep: 1.5e6 µm³
        (["--chamber-depth-um", 100, "--um-per-px", 0.5], 1.5e-6, 2e6),
        # one of four frames failed, so three quarters of the volume were seen
        (["--sample-volume-ml", 0.4], 0.3, 10),
        (["--frame-volume-ml", 0.001, "--dilution", 10], 0.003, 10_000),
        (["--frame-volume-ml", 0.001, "--settled-ml", 50, "--concentrate-ml", 5], 0.003, 100),
        (
            [
                *("--frame-volume-ml", 0.001, "--settled-ml", 50),
                *("--concentrate-ml", 5, "--dilution", 2),
            ],
            0.003,
            200,
        ),
    ],
)
def test_concentrations(capsys, small, options, imaged, per_ml):
    sample = count(capsys, small, *options)[0]["samples"]["all"]
    row = sample["classes"]["a"]
    assert sample["imaged_ml"] == pytest.approx(imaged)
    assert row["cells_per_ml"] == pytest.approx(per_ml)
    assert row["cells_per_l"] == pytest.approx(1000 * per_ml)
    low, high = poisson_interval(3, 0.95)
    assert row["cells_per_l_low"] == pytest.approx(1000 * per_ml * low / 3)
    assert row["cells_per_l_high"] == pytest.approx(1000 * per_ml * high / 3)
    absent = sample["classes"]["b"]
    assert absent["cells_per_l"] == 0
    assert absent["cells_per_l_high"] == pytest.approx(1000 * per_ml * 3.688879 / 3)


def test_sizes_and_biovolume(capsys, small):
    options = ["--um-per-px", 0.5, "--frame-volume-ml", 0.001]
    document, out, _ = count(capsys, small, *options)
    row = document["samples"]["all"]["classes"]["a"]
    # two boxes of 20 x 10 px and one of 10 x 20: 10 x 5 µm, π/6 · 10 · 25
    assert row["biovolume_um3"] == pytest.approx(130.899694)
    assert row["esd_um"] == pytest.approx(250 ** (1 / 3))
    assert row["biovolume_mm3_per_l"] == pytest.approx(1e6 * 130.899694e-9)
    assert sum(row["spectrum"]["counts"]) == 3
    low, high = row["spectrum"]["edges_um"][:2]
    assert low <= 250 ** (1 / 3) < high == pytest.approx(low * 2 ** (1 / 3))
    table = out.parent / "shapes.csv"
    table.write_text("class,shape,depth_ratio\na,box,0.5\n")
    row = count(capsys, small, *options, "--shapes", table)[0]["samples"]["all"]["classes"]["a"]
    assert row["biovolume_um3"] == pytest.approx(10 * 5 * 2.5)
    write_run(small, [("1.png", "found")], [("1.png", "a", 0.9)], shapes={"a": "box"}, um_per_px=1)
    said, _, _ = count(capsys, small, "--depth-ratio", 2)
    assert said["samples"]["all"]["classes"]["a"]["biovolume_um3"] == pytest.approx(20 * 10 * 20)
    assert said["settings"]["classes"]["a"]["shape_from"] == "run.json"
    assert said["settings"]["classes"]["b"]["shape"] == "prolate_spheroid"


def test_community(capsys, tmp_path):
    results = [("1.png", "a", 0.9)] * 3 + [("1.png", "b", 0.9)]
    found = write_run(tmp_path / "found", [("1.png", "found")], results)
    community = count(capsys, found)[0]["samples"]["all"]["community"]
    assert community["richness"] == 2
    assert community["shannon"] == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))


# Samples


@pytest.fixture
def folders(tmp_path):
    names = ["S1/x_A.png", "S1/y_B.png", "S2/x_A.png", "top_B.png", "S2/film.mp4#frame=7"]
    results = [(name, "a", 0.9) for name in names]
    return write_run(tmp_path / "found", [(name, "found") for name in names], results)


def counts_of(document):
    return {name: sample["all"]["count"] for name, sample in document["samples"].items()}


def test_samples_are_folders_a_pattern_a_table_or_all(capsys, folders, tmp_path):
    by_folder = {".": 1, "S1": 2, "S2": 2}
    assert counts_of(count(capsys, folders)[0]) == by_folder
    assert counts_of(count(capsys, folders, "--sample", "folder")[0]) == by_folder
    assert counts_of(count(capsys, folders, "--sample", "all")[0]) == {"all": 5}
    by_pattern = count(capsys, folders, "--sample-pattern", r"(A|B|#)")[0]
    assert counts_of(by_pattern) == {"A": 2, "B": 2, "#": 1}
    table = tmp_path / "samples.csv"
    table.write_text(
        "file,sample,frame_volume_ml,dilution\n"
        "S1/x_A.png,pond,0.001,\nS1/y_B.png,pond,0.001,\nS2/x_A.png,lake,0.002,4\n"
        "top_B.png,pond,,\nS2/film.mp4,lake,,\n"
    )
    document = count(capsys, folders, "--samples", table)[0]
    assert counts_of(document) == {"lake": 2, "pond": 3}
    assert document["samples"]["pond"]["all"]["cells_per_ml"] == pytest.approx(1000)
    assert document["samples"]["lake"]["all"]["cells_per_ml"] == pytest.approx(2000)


def test_a_table_of_samples_alone_gives_their_water(capsys, folders, tmp_path):
    table = tmp_path / "samples.csv"
    table.write_text("sample,volume_ml\nS1,0.5\nS2,0.25\nS9,1\n")
    document, _, said = count(capsys, folders, "--samples", table)
    assert document["samples"]["S1"]["all"]["cells_per_ml"] == pytest.approx(4)
    assert document["samples"]["S2"]["all"]["cells_per_ml"] == pytest.approx(8)
    assert document["samples"]["."]["all"]["cells_per_ml"] is None
    assert "names samples without a frame: 'S9'" in said
    assert "No volume is known of '.'" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--frame-volume-ml", 1, "--sample-volume-ml", 1], "both say what volume was imaged"),
        (["--chamber-depth-um", 10], "--chamber-depth-um needs a scale"),
        (["--frame-volume-ml", 0], "--frame-volume-ml 0 makes no sense"),
        (["--frame-volume-ml", "nan"], "--frame-volume-ml nan makes no sense"),
        (["--frame-volume-ml", 1, "--settled-ml", 3], "belong together"),
        (
            ["--frame-volume-ml", 1, "--settled-ml", 3, "--concentrate-ml", 5],
            "cannot have become --concentrate-ml 5",
        ),
        (["--frame-volume-ml", 1, "--dilution", 0.5], "--dilution 0.5 is below 1"),
        (["--dilution", 2], "say nothing without the volume"),
        (["--um-per-px", -1], "--um-per-px: -1 makes no sense"),
        (["--level", 1], "--level: 1 is not from"),
        (["--draws", 1], "--draws: 1 is not from"),
        (["--sample", "all", "--sample-pattern", "(x)"], "exclude each other"),
        (["--sample-pattern", "x"], "has no group"),
        (["--sample-pattern", "(x"], "is no pattern"),
        (["--sample-pattern", "(zz)"], "finds no sample in '1.png'"),
        (["--samples", "nowhere.csv"], "nowhere.csv: cannot be read"),
        (["--shapes", "nowhere.yaml"], "cannot be read as a data-set card"),
        (["--nonsense"], "--help' tells what there is"),
    ],
)
def test_contradictions_are_refused_in_a_sentence(capsys, small, options, said):
    assert said in refused(capsys, small, *options)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("file,sample\n1.png,x\n", "names no sample of '2.png'"),
        ("file,sample\n1.png,x\n1.png,y\n", "line 3: '1.png' is of two samples"),
        ("file,name\n1.png,x\n", "has no column 'sample'"),
        ("sample,dilution\nall,2\n", "dilution and concentration say nothing"),
        ("sample,volume_ml\nall,2\nall,3\n", "says volume_ml 3 of sample 'all', and 2 further up"),
        ("sample,volume_ml\nall,two\n", "volume_ml 'two' is no number"),
        ("sample,volume_ml,frame_volume_ml\nall,2,2\n", "both say what volume was imaged"),
        ("sample,volume_ml\nall\n", "line 2: has 1 fields, not 2"),
    ],
)
def test_tables_of_samples_that_contradict_themselves(capsys, small, table, said):
    (small.parent / "samples.csv").write_text(table)
    assert said in refused(capsys, small, "--samples", small.parent / "samples.csv")


@pytest.mark.parametrize(
    "text", ["sample,volume_ml,dilution\nall,0.4,2\n", "sample;volume_ml;dilution\nall;0,4;2\n"]
)
def test_numbers_have_a_point_or_where_semicolons_part_them_a_comma(capsys, small, text):
    (small.parent / "samples.csv").write_text(text)
    document = count(capsys, small, "--samples", small.parent / "samples.csv")[0]
    [said] = document["samples"].values()
    assert (said["imaged_ml"], said["factor"]) == (pytest.approx(0.3), 2.0)


def test_a_column_and_its_option_contradict_each_other(capsys, small):
    table = small.parent / "samples.csv"
    table.write_text("sample,volume_ml\nall,2\n")
    said = refused(capsys, small, "--samples", table, "--sample-volume-ml", 2)
    assert "has a column volume_ml, and --sample-volume-ml is given" in said


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("class,shape\na,blob\n", "line 2: no shape 'blob'"),
        ("class,shape\na,box\na,sphere\n", "names class 'a' again"),
        ("class,shape,depth_ratio\na,box,0\n", "depth_ratio 0 makes no sense"),
        ("kind,shape\na,box\n", "has no column 'class'"),
    ],
)
def test_tables_of_shapes_that_make_no_sense(capsys, small, table, said):
    (small.parent / "shapes.csv").write_text(table)
    assert said in refused(capsys, small, "--shapes", small.parent / "shapes.csv")


# Torn and broken runs


def test_the_last_line_of_a_frame_that_was_tried_again_holds(capsys, tmp_path):
    failed = ["1.png", "2.png", "a.avi"]
    found = ["1.png", "a.avi#frame=1", "a.avi#frame=2"]
    lines = [(name, "failed") for name in failed] + [(name, "found") for name in found]
    run = write_run(tmp_path / "found", lines, [("1.png", "a", 0.9), ("a.avi#frame=2", "b", 0.9)])
    table = (run / "frames.csv").read_text().replace("failed,1", "failed,0")
    (run / "frames.csv").write_text(table)
    document, out, said = count(capsys, run)
    [sample] = document["samples"].values()
    assert sample["frames"] == {"found": 3, "empty": 0, "failed": 1} and sample["all"]["count"] == 2
    assert [row["frame"] for row in document["check_first"]] == ["2.png"]
    counts = "1.png,all,1,0\na.avi#frame=2,all,0,1\na.avi#frame=1,all,0,0\n"
    assert (out / "counts.csv").read_text() == f"frame,sample,a,b\n{counts}"
    assert "another number of lines" not in said
    twice = table + "1.png,200,100,found,1,0\n"
    (run / "frames.csv").write_text(twice)
    shutil.rmtree(out)
    assert "line 8: a frame is listed twice" in refused(capsys, run)


@pytest.mark.parametrize("cut", range(1, 18))
def test_a_torn_last_line_of_the_results_is_left_out(capsys, small, cut):
    results = small / "results.csv"
    whole = results.read_text() + "2.png,a,0.99,1,1,5,5,1\n"
    results.write_text(whole[:-cut])
    document, _, said = count(capsys, small)
    assert document["samples"]["all"]["all"]["count"] == 3
    assert "The last line of results.csv is torn and was left out." in document["notes"]
    assert "results.csv is torn" in said


def test_a_torn_last_line_of_the_frames_takes_its_detections_with_it(capsys, small):
    frames = small / "frames.csv"
    frames.write_text(frames.read_text() + "5.png,200,100,fou")
    with (small / "results.csv").open("a") as stream:
        stream.write("5.png,a,0.9,1,1,5,5,1\n5.png,a,0.8,1,1,5,5,1\n")
    document, _, _ = count(capsys, small)
    assert document["samples"]["all"]["all"]["count"] == 3
    assert sum(document["samples"]["all"]["frames"].values()) == 4
    assert "The last line of frames.csv is torn and was left out." in document["notes"]
    assert any(note.endswith("since the run was stopped there: 2.") for note in document["notes"])


def test_lines_of_failed_frames_do_not_count(capsys, small):
    with (small / "results.csv").open("a") as stream:
        stream.write("4.png,a,0.9,1,1,5,5,1\n")
    document, _, _ = count(capsys, small)
    assert document["samples"]["all"]["all"]["count"] == 3
    assert "Lines of results.csv of failed frames, left out: 1." in document["notes"]


def test_a_run_whose_files_disagree_is_told(capsys, small):
    results = small / "results.csv"
    lines = results.read_text().splitlines(keepends=True)
    results.write_text("".join([lines[0], *lines[2:]]))
    document, _, _ = count(capsys, small)
    assert any("than frames.csv says: 1;" in note for note in document["notes"])


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("frames.csv", "a,b\n", "frames.csv: its first line lacks columns"),
        ("frames.csv", f"{FRAMES}\n", "lists no frame"),
        ("frames.csv", f"{FRAMES}\nx,1,1,lost,0,0\n", "status 'lost' is none of"),
        ("frames.csv", f"{FRAMES}\nx,0,1,found,0,0\n", "0 x 1 px is no frame"),
        ("frames.csv", f"{FRAMES}\nx,-4,1,found,0,0\n", "'-4' is no whole number"),
        (
            "frames.csv",
            f"{FRAMES}\nx,1,1,found,0,0\ny,1,1,found,0,0\nx,1,1,found,0,0\n",
            "line 4: a frame is listed twice",
        ),
        ("frames.csv", f"{FRAMES}\nx,1,1\ny,1,1,found,0,0\n", "line 2: has 3 fields, not 6"),
        ("frames.csv", f"{FRAMES}\n" + '"' + "x" * 200_000, "is no CSV"),
        ("results.csv", "", "results.csv: its first line lacks columns"),
        ("results.csv", f"{RESULTS}\n1.png,c,0.9,1,1,5,5,1\n", "class 'c' is none of run.json's"),
        ("results.csv", f"{RESULTS}\n1.png,a,high,1,1,5,5,1\n", "score 'high' is no number"),
        ("results.csv", f"{RESULTS}\n1.png,a,0.9,5,1,1,5,1\n", "line 2: is no detection"),
        ("results.csv", f"{RESULTS}\n1.png,a,0.9,1,1,1e99,5,1\n", "is no detection"),
        ("results.csv", f"{RESULTS}\n1.png,a,0.9,1,1,5,5,yes\n", "is no detection"),
        (
            "results.csv",
            f"{RESULTS}\n1.png,a,0.9,1,1,5,5,1\n2.png,a,0.9,1,1,5,5,1\n1.png,a,0.8,1,1,5,5,1\n",
            "the lines of '1.png' lie apart",
        ),
        ("run.json", "{", "is no JSON"),
        ("run.json", "[" * 100_000, "is no JSON"),
        ("run.json", "[]", "holds no settings"),
        ("run.json", '{"classes": ["a", "a"]}', "'classes' is no list of different names"),
        ("run.json", '{"classes": ["\\ud800"]}', "'classes' is no list of different names"),
        ("run.json", '{"classes": ["a"], "um_per_px": NaN}', "um_per_px nan is no scale"),
        ("run.json", '{"classes": ["a"], "thresholds": {"a": NaN}}', "'thresholds' does not name"),
        ("run.json", '{"classes": ["a"], "shapes": {"a": "blob"}}', "run.json: no shape 'blob'"),
        ("run.json", '{"classes": ["a"], "images": 3}', "'images' is no folder"),
    ],
)
def test_broken_files_are_refused(capsys, small, file, content, said):
    (small / file).write_text(content)
    assert said in refused(capsys, small)


def test_missing_files_and_an_existing_folder_are_refused(capsys, small, tmp_path):
    assert "no such folder" in refused(capsys, tmp_path / "nowhere")
    (small / "results.csv").unlink()
    assert "results.csv: cannot be read" in refused(capsys, small)
    (tmp_path / "counts").mkdir()
    assert launch("count", [str(small), "--out", str(tmp_path / "counts")]) == 2
    assert "is there already" in capsys.readouterr().err


# The page


class Page(HTMLParser):
    """Tags, their addresses, and text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.said = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        assert not [name for name, _ in attributes if name.startswith("on")]
        self.addresses += [value for name, value in attributes if name in ("src", "href", "data")]

    def handle_data(self, data):
        self.said.append(data)


BAD = "\"><script>alert(1)</script><img src=http://x/ onerror=alert(1)>&'\u202e"


def test_hostile_names_stay_text(capsys, tmp_path):
    name = f"{BAD}/{BAD}#x\n.png"
    found = write_run(
        tmp_path / f"found{BAD.replace('/', '')}",
        [(name, "found"), (f"{BAD}2", "failed"), *((f"{BAD}/{at}", "found") for at in range(9))],
        [(name, BAD, 0.55)] * 30 + [(f"{BAD}/3", BAD, 0.9, 5, 5, 95, 45)],
        classes=[BAD, "b"],
        thresholds={BAD: 0.5},
        um_per_px=1,
    )
    document, out, said = count(capsys, found, "--frame-volume-ml", 1)
    text = (out / "summary.html").read_text()
    page = Page(text)
    assert {"script", "img", "link", "iframe"}.isdisjoint(page.tags) and page.addresses == []
    assert "url(" not in text and "@import" not in text
    assert any("<script>alert(1)</script>" in part for part in page.said)
    assert "\u202e" not in text and "\u202e" not in said
    assert sum(counts_of(document).values()) == 31
    lines = list(csv.reader((out / "counts.csv").open(newline="")))
    assert lines[1][0] == name and lines[1][lines[0].index(BAD)] == "30"


def draw(folder, name, boxes, size=(200, 100)):
    """A white image with boxes of a colour."""
    image = Image.new("RGB", size, "white")
    for box, colour in boxes:
        image.paste(colour, box)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    image.save(folder / name)
    return image


def pictures(out):
    """Of each heading of a class, the pictures below it as arrays."""
    text = (out / "summary.html").read_text()
    found = {}
    for part in text.split("<h3>")[1:]:
        data = re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", part)
        found[part.partition("</h3>")[0]] = [
            np.asarray(Image.open(io.BytesIO(base64.b64decode(each)))) for each in data
        ]
    return found


def middle(picture):
    return picture[picture.shape[0] // 2, picture.shape[1] // 2].astype(int)


def test_pictures_show_the_cells(capsys, small):
    draw(small / "images", "1.png", [((10, 10, 30, 20), (200, 30, 30))])
    draw(small / "images", "2.png", [((50, 50, 60, 70), (30, 30, 200))])
    _, out, _ = count(capsys, small)
    shown = pictures(out)
    assert list(shown) == ["a"] and len(shown["a"]) == 3
    for picture, colour in zip(shown["a"], [(200, 30, 30)] * 2 + [(30, 30, 200)], strict=True):
        assert np.abs(middle(picture) - colour).max() < 25
        assert (picture[0, 0] > 230).all() and max(picture.shape) == TALLEST
    assert "no pictures" not in (out / "summary.html").read_text()


def test_pictures_of_the_best_and_of_some_at_random(capsys, tmp_path):
    results = [("1.png", "a", round(0.5 + at / 1000, 3), at, 0, at + 8, 8) for at in range(100)]
    found = write_run(tmp_path / "found", [("1.png", "found")], results)
    draw(found / "images", "1.png", [])
    pages = []
    for seed in (0, 0, 1):
        _, out, _ = count(capsys, found, "--seed", seed)
        pages.append(re.findall(r"<figcaption>([0-9.]+)", (out / "summary.html").read_text()))
    assert pages[0][:4] == ["0.60"] * 4 and len(pages[0]) == 8
    assert pages[0] == pages[1] and pages[0][4:] != pages[2][4:]


def test_pages_of_a_stack(capsys, tmp_path):
    frames = [(f"stack.tif#page={page}", "found") for page in (1, 2)]
    results = [(name, "a", 0.9 - at / 10) for at, (name, _) in enumerate(frames)]
    found = write_run(tmp_path / "found", frames, results)
    (found / "images").mkdir()
    pages = [Image.new("RGB", (200, 100), colour) for colour in ("red", "blue")]
    pages[0].save(found / "images/stack.tif", save_all=True, append_images=pages[1:])
    shown = pictures(count(capsys, found)[1])["a"]
    assert [int(middle(each).argmax()) for each in shown] == [0, 2]


def test_frames_of_a_film(capsys, tmp_path):
    import cv2

    frames = [(f"film.avi#frame={at}", "found") for at in (1, 6)]
    results = [(name, "a", 0.9 - at / 10) for at, (name, _) in enumerate(frames)]
    found = write_run(tmp_path / "found", frames, results)
    (found / "images").mkdir()
    film = cv2.VideoWriter(
        str(found / "images/film.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (200, 100)
    )
    for at in range(8):
        film.write(np.full((100, 200, 3), 30 * at, np.uint8))
    film.release()
    shown = pictures(count(capsys, found)[1])["a"]
    assert [int(middle(each)[0]) for each in shown] == pytest.approx([0, 150], abs=6)


@pytest.mark.parametrize("name", ["../secret.png", "{outside}/secret.png", "link/secret.png"])
def test_no_picture_from_outside_the_images(capsys, tmp_path, name):
    name = name.format(outside=tmp_path)
    found = write_run(tmp_path / "found", [(name, "found")], [(name, "a", 0.9)])
    (found / "images").mkdir()
    (found / "images/link").symlink_to(tmp_path)
    draw(tmp_path, "secret.png", [])
    draw(found, "secret.png", [])
    _, out, _ = count(capsys, found)
    assert pictures(out) == {}
    assert "1 of 1 pictures are missing" in (out / "summary.html").read_text()


def test_without_the_images_the_page_says_so(capsys, small):
    _, out, _ = count(capsys, small)
    assert "The folder of the images is not here" in (out / "summary.html").read_text()


def test_frames_to_check_first(capsys, tmp_path):
    frames = [(f"{at}.png", "found") for at in range(20)] + [("bad.png", "failed")]
    results = []
    for at in range(20):
        number = 40 if at == 7 else 0 if at == 9 else 16
        results += [(f"{at}.png", "a", 0.9)] * number
        results += [(f"{at}.png", "a", 0.45)] * (3 if at == 4 else 0)
    found = write_run(tmp_path / "found", frames, results)
    document, out, _ = count(capsys, found)
    first = [(row["frame"], row["reason"].split()[0]) for row in document["check_first"]]
    assert first == [
        ("bad.png", "could"),
        ("4.png", "most"),
        ("7.png", "unusual"),
        ("9.png", "unusual"),
    ]
    assert document["check_first"][1]["near_threshold"] == 3
    assert "bad.png" in (out / "summary.html").read_text()


# Many frames, and the file alone


def many(folder, frames):
    with (folder / "frames.csv").open("w") as listed, (folder / "results.csv").open("w") as found:
        listed.write(f"{FRAMES}\n")
        found.write(f"{RESULTS}\n")
        for at in range(frames):
            listed.write(f"day{at % 4}/frame_{at:06d}.png,200,100,found,{at % 3},0\n")
            for cell in range(at % 3):
                found.write(f"day{at % 4}/frame_{at:06d}.png,a,0.{50 + cell},1,1,9,5,1\n")


def test_memory_does_not_grow_with_the_frames(capsys, small):
    options = ["--um-per-px", 1, "--frame-volume-ml", 0.1]
    count(capsys, small, *options)  # what is loaded once is no part of a peak
    peaks = {}
    for frames in (500, 2_000):
        many(small, frames)
        tracemalloc.start()
        document, _, _ = count(capsys, small, *options)
        peaks[frames] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert sum(counts_of(document).values()) == pytest.approx(frames, abs=1)
    assert peaks[2_000] - peaks[500] < 1_500 * 100  # bytes a frame
    assert peaks[2_000] < 2e6


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """counting.pyz in a folder of its own."""
    path = tmp_path_factory.mktemp("device") / "counting.pyz"
    write_app(path)
    return path


def test_the_app_holds_the_modules_of_counting_and_is_the_same_each_time(app, tmp_path):
    write_app(tmp_path / "again.pyz")
    assert (tmp_path / "again.pyz").read_bytes() == app.read_bytes()
    modules = {path.name: path.read_bytes() for path in Path(command.__file__).parent.glob("*.py")}
    with ZipFile(app) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        names = archive.namelist()
        inside = {name.rpartition("/")[2]: archive.read(name) for name in names if "ing/" in name}
        above = [name for name in names if "ing/" not in name]
        assert archive.read("detkd/__init__.py") == archive.read("detkd/deploy/__init__.py") == b""
    assert inside == modules and names == sorted(names)
    assert above == ["__main__.py", "detkd/__init__.py", "detkd/deploy/__init__.py"]


ALONE = """
import runpy, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"blocked: {{name}}", name=name)
sys.meta_path.insert(0, Blocker())
sys.argv[0] = "counting.pyz"
try:
    runpy.run_path("counting.pyz", run_name="__main__")
finally:
    ours = [module for name, module in sys.modules.items() if name.partition(".")[0] == "detkd"]
    print({{module.__file__.partition("detkd")[0] for module in ours}}, file=sys.stderr)
"""


@pytest.mark.parametrize("lacking", [("PIL",), ("cv2",), ("PIL", "cv2")])
def test_the_app_works_alone(capsys, small, app, lacking):
    """It uses nothing of detkd but what lies inside, and no library but numpy and these."""
    draw(small / "images", "1.png", [((10, 10, 30, 20), (200, 30, 30))])
    draw(small / "images", "2.png", [])
    code = ALONE.format(blocked={"torch", "scipy", "yaml", *lacking})
    options = ["--frame-volume-ml", "0.001", "--um-per-px", "0.5"]
    alone = app.parent / "_".join(lacking)
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(small), "--out", alone.name, *options],
        cwd=app.parent,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "{'counting.pyz/'}\n")
    document, out, said = count(capsys, small, *options)
    assert json.loads((alone / "counts.json").read_text()) == document
    for name in ("counts.csv", "samples.csv"):
        assert (alone / name).read_bytes() == (out / name).read_bytes()
    assert done.stdout.splitlines()[:-1] == said.splitlines()[:-1]
    page = (alone / "summary.html").read_text()
    if len(lacking) == 2:
        assert "Neither Pillow nor OpenCV is installed" in page and "<img" not in page
    else:
        shown = pictures(alone)["a"]
        assert len(shown) == 3 and np.abs(middle(shown[0]) - (200, 30, 30)).max() < 25


def test_the_app_refuses_in_a_sentence(small, app):
    line = [sys.executable, "-I", str(app), str(small), "--out", "counts", "--level", "7"]
    done = subprocess.run(line, cwd=small, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --level: 7 is not from 0.5 to below 1.\n"
    assert not (small / "counts").exists()


def test_the_app_says_how_it_is_run(monkeypatch, capsys, small):
    monkeypatch.setattr(sys, "argv", ["../somewhere/counting.pyz"])
    with pytest.raises(SystemExit):
        command.main(["--help"])
    assert "\n  python counting.pyz FOUND --out counts\n" in capsys.readouterr().out
    assert command.main([str(small / "nowhere"), "--out", str(small / "counts")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {small}/nowhere: no such folder;")


def test_a_card_gives_shapes_to_the_command_alone(capsys, small, tmp_path):
    card = tmp_path / "card.yaml"
    card.write_text("classes: [a, b]\nshapes: {c: box}\n")
    assert "names 'c', which is no class of it" in refused(capsys, small, "--shapes", card)
    card.write_text("classes: [a, b]\nshapes: {a: box}\n")
    document, _, _ = count(capsys, small, "--shapes", card)
    assert document["settings"]["classes"]["a"]["shape"] == "box"
    assert command.main([str(small), "--out", str(tmp_path / "x"), "--shapes", str(card)]) == 2
    assert "has no column 'class'" in capsys.readouterr().err
