"""The commands as a person types them: what is written, what is said, how they end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from detkd.cli.app import launch
from detkd.data.check import Examined, examine
from detkd.data.convert import write_dataset
from detkd.data.records import BoxRecord, DataSet, ImageRecord, Rule

ROOT = Path(__file__).parents[2]


def person(tool, *arguments):
    """A command in a process of its own, as from a checkout."""
    command = [sys.executable, str(ROOT / f"tools/{tool}.py"), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def tree(root, lines="0 .5 .5 .2 .2\n", names="a\n"):
    for stem, content in (("good", "0 .5 .5 .2 .2\n"), ("other", lines)):
        Image.new("RGB", (100, 80), (len(stem), 0, 0)).save(root / f"{stem}.png")
        (root / f"{stem}.txt").write_text(content)
    (root / "classes.txt").write_text(names)
    return root


@pytest.fixture
def sound(tmp_path):
    (tmp_path / "tree").mkdir()
    return tree(tmp_path / "tree")


@pytest.fixture
def flawed(tmp_path):
    (tmp_path / "flawed").mkdir()
    return tree(tmp_path / "flawed", "0 .5 .5 0 .2\n0 .5 .5 .2 .2\n")


def test_a_sound_tree_ends_with_0_and_a_flawed_one_with_1(sound, flawed, tmp_path):
    done = person("check_dataset", sound)
    assert (done.returncode, done.stderr) == (0, "")
    assert "no problems" in done.stdout
    report = tmp_path / "report.json"
    done = person("check_dataset", flawed, "--report", report)
    assert (done.returncode, done.stderr) == (1, "")
    assert "empty box" in done.stdout
    assert str(report.name) in done.stdout
    said = json.loads(report.read_text())
    assert said["images"] == 2
    assert said["boxes"] == 2
    assert said["problems"] == [
        {
            "kind": "empty box",
            "file": "other.png",
            "where": "box 1 (a)",
            "message": "[50, 32, 50, 48] has no area",
            "action": "dropped box",
        }
    ]


def test_conversion_mends_and_ends_with_0_or_refuses_with_one_sentence(flawed, tmp_path):
    done = person("convert_dataset", flawed, tmp_path / "out.json")
    assert (done.returncode, done.stderr) == (0, "")
    out = json.loads((tmp_path / "out.json").read_text())
    assert [image["file_name"] for image in out["images"]] == ["good.png", "other.png"]
    assert [image["id"] for image in out["images"]] == [1, 2]
    assert out["info"]["detkd"]["image_root"] == "flawed"
    assert out["info"]["detkd"]["dropped"] == {"boxes": 1, "images": 0}
    done = person("convert_dataset", tmp_path / "nowhere", tmp_path / "x.json")
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path}/nowhere: no such file or folder.\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{tree}", "{out}/x"], "say what it shall be with --to"),
        (["{tree}", "{out}/x.json", "--to", "voc"], "a name in .json means COCO"),
        (["{tree}", "{out}/file/x.json"], "cannot be written"),
        (["{tree}", "{out}/" + "x" * 300 + ".json"], "cannot be written"),
        (["{tree}", "{out}/x.json", "--report", "{out}/file/r.json"], "cannot be written"),
        (
            ["{tree}", "{out}/x.json", "--from", "vok"],
            "no format 'vok'; there are coco, voc, yolo, labelme, cvat, ",
        ),
        (["{tree}", "{out}/x.json", "--classes", "{out}/none"], "cannot be read as a list"),
        (["{tree}", "{out}/x.json", "--strickt"], "unrecognized arguments: --strickt"),
        (["{tree}"], "the following arguments are required: DST"),
        (["{out}/" + "x" * 300, "{out}/x.json"], "cannot be read (File name too long)"),
        (["{out}/file", "{out}/x.json"], "holds no annotations of a known format"),
    ],
)
def test_a_refusal_is_one_sentence_and_leaves_nothing(sound, tmp_path, capsys, arguments, said):
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    places = {"tree": sound, "out": tmp_path}
    assert launch("convert", [text.format(**places) for text in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert said in error
    assert sorted(tmp_path.rglob("*")) == before


def test_a_disk_that_fills_up_leaves_no_half_tree(sound, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    assert launch("convert", [str(sound), str(tmp_path / "out"), "--to", "voc"]) == 2
    assert "disk is full" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tree"]


def test_images_move_into_the_folder_of_their_new_format(real_data, tmp_path):
    found = examine(real_data / "bccd", subset="test")
    write_dataset(found, tmp_path / "yolo", "yolo")
    assert (tmp_path / "yolo/images/BloodImage_00007.jpg").is_file()
    back = examine(tmp_path / "yolo")
    assert [len(r.boxes) for r in back.images] == [len(r.boxes) for r in found.images]
    for ours, theirs in zip(back.images, found.images, strict=True):
        for a, b in zip(ours.boxes, theirs.boxes, strict=True):
            assert a.xyxy == pytest.approx(b.xyxy, abs=1e-5)


def test_bccd_through_voc_is_equal_to_the_last_field(real_data, tmp_path):
    first = tmp_path / "first.json"
    assert launch("convert", [str(real_data / "bccd"), str(first), "--subset", "test"]) == 0
    assert launch("convert", [str(first), str(tmp_path / "voc"), "--to", "voc"]) == 0
    assert launch("convert", [str(tmp_path / "voc"), str(tmp_path / "last.json")]) == 0
    ours, theirs = (json.loads(p.read_text()) for p in (tmp_path / "last.json", first))
    for section in ("images", "annotations", "categories"):
        assert ours[section] == theirs[section]


def test_what_a_target_cannot_hold_is_said_and_recorded(tmp_path):
    Image.new("RGB", (50, 40)).save(tmp_path / "a.png")
    box = BoxRecord(
        "a\N{GREEK SMALL LETTER BETA}",
        1,
        2,
        11,
        12,
        crowd=True,
        attributes={"1st": 1, "name": "x", "note": "a\x00<b>"},
        extra={"segmentation": [[1, 2, 3, 4, 5, 6]]},
    )
    image = ImageRecord("a.png", 50, 40, boxes=(box,), sample="S", extra={"license": 1})
    data = DataSet("coco", Rule("coco", ""), [box.label], [image])
    lost = write_dataset(Examined(data, tmp_path, []), tmp_path / "voc", "voc")
    assert lost == [
        "annotations[].iscrowd",
        "annotations[].segmentation",
        "attributes.1st",
        "attributes.name",
        "images[].license",
    ]
    assert json.loads((tmp_path / "voc/conversion.json").read_text())["lost"] == lost
    (back,) = examine(tmp_path / "voc").images
    assert back.sample == "S"
    assert back.boxes[0].label == box.label
    assert back.boxes[0].attributes == {"note": "a <b>"}
    assert back.boxes[0].xyxy == box.xyxy


def test_two_images_of_one_stem_are_refused_where_they_would_share_a_file(tmp_path, capsys):
    source = tmp_path / "tree"
    source.mkdir()
    for name in ("a.png", "a.jpg"):
        Image.new("RGB", (50, 40)).save(source / name)
    (source / "a.txt").write_text("0 .5 .5 .2 .2\n")
    assert launch("convert", [str(source), str(tmp_path / "out"), "--to", "voc"]) == 2
    assert "a second image of this stem would share a.xml" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_annotation_of_no_format_hints_at_the_coco_file_in_the_folder(tmp_path, capsys):
    (tmp_path / "all.json").write_text("{}")
    assert launch("check", [str(tmp_path)]) == 2
    assert f"for COCO, name the file, such as {tmp_path}/all.json" in capsys.readouterr().err


def test_names_that_a_terminal_would_obey_are_shown_harmlessly(tmp_path, capsys):
    tree(tmp_path, names="\x1b[31mred[/bold]\n")
    assert launch("check", [str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "\x1b[31mred" not in out
    assert "[31mred[/bold]" in out.replace("\n", "")
