"""Rendered scenes: the same from the same seed, and annotated to the pixel."""

import cv2
import numpy as np
import pytest

from detkd.cli.app import launch
from detkd.data.check import examine
from detkd.data.synthetic import DEMO_TAXA, TAXA, render_scene, write_scenes
from detkd.data.synthetic.scene import HIDDEN
from detkd.errors import DataError


def series(count=24, **options):
    return [render_scene(5, index, **options) for index in range(count)]


def test_boxes_are_tight_around_the_rendered_masks():
    objects = [cell for scene in series() for cell in scene.objects]
    assert len(objects) > 50
    for cell in objects:
        x0, y0, x1, y1 = cell.box
        inside = cell.mask[y0:y1, x0:x1]
        assert inside.sum() == cell.mask.sum()
        assert inside[0].any()
        assert inside[-1].any()
        assert inside[:, 0].any()
        assert inside[:, -1].any()


def test_the_masks_are_where_the_picture_is_darker():
    darker = []
    for scene in series():
        grey = scene.image.mean(axis=2)
        covered = np.zeros(grey.shape, bool)
        for cell in scene.objects:
            covered |= cell.mask
        for cell in scene.objects:
            if not cell.difficult:
                darker.append(np.median(grey[~covered]) - grey[cell.mask].mean())
    assert np.mean(np.array(darker) > 5) > 0.9


def test_a_scene_depends_on_seed_and_index_alone():
    one, again, other = render_scene(1, 7), render_scene(1, 7), render_scene(2, 7)
    assert np.array_equal(one.image, again.image)
    assert [cell.box for cell in one.objects] == [cell.box for cell in again.objects]
    assert not np.array_equal(one.image, other.image)


def test_a_written_tree_is_the_same_byte_for_byte(tmp_path):
    for name in ("a", "b"):
        write_scenes(tmp_path / name, 3, seed=4, size=(96, 128))
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 7
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_every_taxon_is_drawn_and_looks_like_no_other():
    assert len(TAXA) == 24
    assert len({taxon.shape for taxon in TAXA.values()}) >= 8
    shapes = {}
    for name in TAXA:
        scenes = [render_scene(0, index, taxa=[name], samples=1) for index in range(3)]
        cells = [cell for scene in scenes for cell in scene.objects]
        assert cells, name
        assert {cell.label for cell in cells} == {name}
        whole = [cell for cell in cells if not cell.truncated]
        box = np.array([cell.box for cell in whole])
        shapes[name] = (
            np.mean([cell.mask.sum() for cell in whole]),
            np.mean(np.hypot(box[:, 2] - box[:, 0], box[:, 3] - box[:, 1])),
        )
    assert len(set(shapes.values())) == 24


def test_lengths_follow_the_scale():
    small = [c for s in series(8, taxa=["coscinodiscus"], samples=2) for c in s.objects]
    large = [
        c for s in series(8, taxa=["coscinodiscus"], samples=2, size=(480, 640)) for c in s.objects
    ]

    def diameter(cells):
        whole = [c.box[2] - c.box[0] for c in cells if not c.truncated]
        return np.mean(whole)

    assert diameter(large) / diameter(small) == pytest.approx(2, rel=0.25)


def test_cells_at_the_edge_are_truncated_and_hidden_ones_difficult():
    scenes = series(40)
    height, width = scenes[0].image.shape[:2]
    cut = [c for s in scenes for c in s.objects if c.truncated]
    assert cut
    for cell in cut:
        x0, y0, x1, y1 = cell.box
        # Defocus may leave a pale pixel row between a cut cell's core and the edge.
        assert x0 <= 2 or y0 <= 2 or x1 >= width - 2 or y1 >= height - 2
    hidden = 0
    for scene in scenes:
        for at, cell in enumerate(scene.objects):
            over = np.zeros(cell.mask.shape, bool)
            for other in scene.objects[at + 1 :]:
                over |= other.mask
            if (cell.mask & over).sum() / cell.mask.sum() > HIDDEN:
                hidden += 1
                assert cell.difficult
    assert hidden


def test_samples_differ_in_background():
    colours = {}
    for scene in series(60):
        colours.setdefault(scene.sample, []).append(np.median(scene.image, axis=(0, 1)))
    within = np.mean([np.std(c, axis=0).mean() for c in colours.values()])
    between = np.std([np.mean(c, axis=0) for c in colours.values()], axis=0).mean()
    assert len(colours) == 6
    assert between > 2 * within


@pytest.mark.parametrize(("taxa", "factor"), [(DEMO_TAXA, 2), (tuple(TAXA), 5)])
def test_classes_have_a_long_tail(taxa, factor):
    scenes = series(100, taxa=taxa, samples=40)
    counts = np.bincount([taxa.index(c.label) for s in scenes for c in s.objects])
    assert len(counts) == len(taxa)
    assert counts.max() > factor * counts.min()


def test_the_tree_reads_back_as_it_was_rendered(tmp_path):
    write_scenes(tmp_path / "tree", 6, seed=9, size=(120, 160), samples=3)
    report = examine(tmp_path / "tree")
    assert not report.problems
    assert len(report.images) == 6
    for image in report.images:
        index = int(image.file.split("_")[-1].removesuffix(".jpg"))
        scene = render_scene(9, index, size=(120, 160), samples=3)
        assert (image.height, image.width) == scene.image.shape[:2]
        read = [(b.label, b.xyxy, b.difficult, b.truncated) for b in image.boxes]
        drawn = [(c.label, c.box, c.difficult, c.truncated) for c in scene.objects]
        assert read == drawn


def test_an_existing_folder_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep")
    with pytest.raises(DataError, match="exists already"):
        write_scenes(tmp_path / "mine", 1)
    assert (tmp_path / "mine/notes.txt").read_text() == "keep"


def test_an_interrupted_rendering_leaves_nothing(tmp_path):
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path / "tree", 3, size=(96, 128), progress=stop)
    assert not list(tmp_path.iterdir())


def test_the_command_writes_a_tree_and_a_sheet(tmp_path, capsys):
    tree, sheet = tmp_path / "tree", tmp_path / "sheet.png"
    options = ["--images", "2", "--size", "96", "128"]
    assert launch("synth", [str(tree), *options, "--taxa", "navicula", "helicotheca"]) == 0
    assert "written: " in capsys.readouterr().out
    assert len(list((tree / "JPEGImages").iterdir())) == 2
    assert launch("synth", ["--sheet", str(sheet), "--size", "60", "80"]) == 0
    assert cv2.imread(str(sheet)).shape == (120, 320, 3)
    assert launch("synth", [str(tmp_path / "x"), "--taxa", "navikula"]) == 2
    assert "no taxon 'navikula'" in capsys.readouterr().err
    assert launch("synth", [str(tmp_path / "x"), "--images", "0"]) == 2
