"""The teacher's features on disk: read for a view that is the same, and for no other."""

import copy
import json

import pytest
import torch
from networks import small

from detkd.cli.app import launch
from detkd.config import (
    DataConfig,
    DistillConfig,
    Experiment,
    ModelConfig,
    TermConfig,
    TrainConfig,
)
from detkd.distill import cache as caching
from detkd.distill.cache import MapCache, maps_needed
from detkd.distill.distiller import Distiller
from detkd.engine.devices import build_fabric
from detkd.engine.parts import build_loader, open_data
from detkd.engine.run import RunFolder, read_log
from detkd.errors import ConfigError, UserError

TERMS = [TermConfig("pkd", ["p3"]), TermConfig("hint", ["c4"]), TermConfig("kl", ["roi.logits"])]


@pytest.fixture
def cache(teacher, tmp_path):
    return MapCache(tmp_path / "cache", teacher, ["p3", "p4", "c4"])


def losses(student, teacher, batch, cache=None, terms=TERMS):
    torch.manual_seed(4)
    distiller = Distiller(copy.deepcopy(student), teacher, terms, cache=cache).train()
    torch.manual_seed(5)
    return {name: float(loss.detach()) for name, loss in distiller(*batch).items()}


def test_losses_are_those_without_a_cache_and_the_teacher_rests(student, teacher, batch, cache):
    plain = losses(student, teacher, batch)
    assert losses(student, teacher, batch, cache) == pytest.approx(plain, rel=1e-3)
    assert len(list(cache.folder.glob("*.maps"))) == 2
    cache.unchecked = 0
    ran = []
    teacher.backbone.body.register_forward_hook(lambda *_: ran.append(1))
    assert losses(student, teacher, batch, cache) == pytest.approx(plain, rel=2e-3)
    assert not ran


def test_what_is_computed_counts_as_it_will_be_read(student, teacher, batch, cache):
    """So that a training ends the same, whatever part of the views was kept when it began."""
    first = losses(student, teacher, batch, cache)
    assert cache.unchecked > 2  # those that are checked are computed once more
    assert losses(student, teacher, batch, cache) == first
    cache.unchecked = 0
    assert losses(student, teacher, batch, cache) == first


def test_only_new_views_are_computed(student, teacher, batch, cache):
    losses(student, teacher, batch, cache)
    cache.unchecked = 0
    sizes = []
    teacher.backbone.body.register_forward_hook(lambda m, i, o: sizes.append(len(i[0])))
    images = [batch[0][0], batch[0][1].flip(2)]
    losses(student, teacher, (images, batch[1]), cache)
    assert sizes == [1]


def test_the_teachers_neck_is_told_what_is_padding_of_the_views_that_are_new(
    student, batch, tmp_path
):
    teacher = small("resnet18@c5", neck="cem").eval()
    terms = [TermConfig("pkd", ["p3"])]
    told = []
    teacher.backbone.neck.register_forward_pre_hook(lambda _, given: told.append(given[1]))
    live = losses(student, teacher, batch, terms=terms)
    cache = MapCache(tmp_path / "cache", teacher, ["p3"])
    assert losses(student, teacher, batch, cache, terms) == pytest.approx(live, rel=1e-3)
    cache.unchecked = 0
    assert losses(student, teacher, batch, cache, terms) == pytest.approx(live, rel=2e-3)
    new = [batch[0][0].flip(2), batch[0][1]]
    losses(student, teacher, (new, batch[1]), cache, terms)
    assert told == [[(72, 96), (96, 64)]] * 2 + [[(72, 96)]]


def test_a_view_is_known_by_pixels_padding_and_teacher(batch, cache, tmp_path):
    image = batch[0][0]
    path = cache.path(image, (96, 96))
    assert path == cache.path(image.clone(), (96, 96))
    assert path != cache.path(image.flip(2), (96, 96))
    assert path != cache.path(image, (96, 128))
    torch.manual_seed(7)
    other = MapCache(tmp_path / "cache", small("resnet18@c4"), cache.names)
    assert path != other.path(image, (96, 96))


@pytest.mark.parametrize("frames", [False, True])
def test_a_marked_view_is_kept_by_its_mark(frames, student, teacher, batch, cache):
    images, targets = batch
    targets = [{**t, "unlabelled": torch.tensor(True)} if frames else t for t in targets]
    marked = [{**t, "view": torch.tensor([at, 7])} for at, t in enumerate(targets)]
    live = losses(student, teacher, (images, marked), cache)
    cache.unchecked = 0
    ran = []
    # On frames the teacher's heads look for boxes, in a batch of its own.
    for part in (teacher.backbone.body, *([] if frames else [teacher.transform])):
        part.register_forward_hook(lambda *_: ran.append(1))
    assert losses(student, teacher, (images, marked), cache) == pytest.approx(live, rel=5e-3)
    assert not ran
    losses(student, teacher, (images, targets), cache)  # pixels that nobody marked are looked at
    assert ran
    assert len(list(cache.folder.glob("*.maps"))) == 4


def test_what_was_kept_is_checked_live_when_it_is_first_read(student, teacher, batch, cache):
    losses(student, teacher, batch, cache)
    for path in cache.folder.glob("*.maps"):
        cache.write(path, {name: values + 1 for name, values in cache.read(path).items()})
    with pytest.raises(UserError, match="is not what it says now; remove the folder"):
        losses(student, teacher, batch, cache)


@pytest.mark.parametrize(
    "broken",
    [
        lambda data: data[:100],
        lambda data: data[:-1000] + bytes(1000),  # blocks that were not written yet
        lambda data: data[:-2],
        lambda data: b"",
        lambda data: b"{}\n",
        lambda data: b"[1]\n" + data,
        lambda data: data.replace(b"float16", b"complex"),
        lambda data: data.replace(b'"p3": [16', b'"p3": [17'),
        lambda data: data.replace(b'"p3": [16', b'"p3": ["a"'),
    ],
)
def test_a_broken_file_is_made_again(student, teacher, batch, cache, broken):
    plain = losses(student, teacher, batch, cache)
    files = sorted(cache.folder.glob("*.maps"))
    whole = [path.read_bytes() for path in files]
    for path in files:
        path.write_bytes(broken(path.read_bytes()))
        assert path.read_bytes() not in whole
        assert cache.read(path) is None
    assert losses(student, teacher, batch, cache) == pytest.approx(plain, rel=1e-3)
    assert [path.read_bytes() for path in files] == whole


def test_the_room_that_it_needs_is_said_before(teacher, tmp_path, monkeypatch):
    cache = MapCache(tmp_path, teacher, ["p3"])  # 16 channels of stride 8, two bytes each
    assert cache.bytes_a_view((96, 64)) == 2 * 16 * 12 * 8
    assert cache.bytes_a_view((96, 64)) == 3072
    assert cache.plan(10, 8, (96, 64)) == 80 * 4096  # whole blocks of the disk
    with pytest.raises(ConfigError, match="never shows the same view twice"):
        cache.plan(10, None, (96, 64))
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(caching.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ConfigError, match=r"10 images in 8 views take .* GiB left"):
        cache.plan(10, 8, (96, 64))


def test_what_others_have_kept_takes_no_room_off(teacher, student, batch, tmp_path, monkeypatch):
    """Maps of another teacher in the same folder are not those that this one needs."""
    other = MapCache(tmp_path, student.eval(), ["p3"])
    other.plan(2, 1, (96, 96))
    for image in batch[0]:
        other.write(other.path(image, (96, 96)), {"p3": torch.rand(16, 12, 12)})
    cache = MapCache(tmp_path, teacher, ["p3"])
    usage = type("Usage", (), {"free": caching.on_disk(cache.bytes_a_view((96, 96)))})
    monkeypatch.setattr(caching.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ConfigError, match="name another folder"):
        cache.plan(2, 1, (96, 96))


def test_other_maps_of_the_teacher_take_no_room_off(teacher, batch, tmp_path, monkeypatch):
    for names, exact in ((["p4"], False), (["p3"], True)):
        other = MapCache(tmp_path, teacher, names, exact=exact)
        other.plan(2, 1, (96, 96))
        for image in batch[0]:
            maps = {name: torch.rand(16, 12, 12) for name in names}
            other.write(other.path(image, (96, 96)), maps)
    cache = MapCache(tmp_path, teacher, ["p3"])
    free = type("Usage", (), {"free": caching.on_disk(cache.bytes_a_view((96, 96)))})
    monkeypatch.setattr(caching.shutil, "disk_usage", lambda _: free)
    with pytest.raises(ConfigError, match="name another folder"):
        cache.plan(2, 1, (96, 96))
    cache.write(cache.path(batch[0][0], (96, 96)), {"p3": torch.rand(16, 12, 12)})
    cache.plan(2, 1, (96, 96))  # one of the two is there


def test_a_disk_that_is_full_ends_no_training(student, teacher, batch, cache, monkeypatch, capsys):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    plain = losses(student, teacher, batch, cache)
    for path in cache.folder.glob("*.maps"):
        path.unlink()
    monkeypatch.setattr(caching, "write_with", fail)
    for _ in range(2):
        assert losses(student, teacher, batch, cache) == plain
    said = capsys.readouterr().err
    assert said.count("no more is kept of the teacher") == 1
    assert not list(cache.folder.glob("*.maps"))


def test_maps_of_a_lower_precision_are_not_taken_for_others(student, teacher, batch, tmp_path):
    def found(precision, cache):
        torch.manual_seed(4)
        terms = [TermConfig("pkd", ["p3"])]
        own = copy.deepcopy(student)
        distiller = Distiller(own, teacher, terms, cache=cache, precision=precision).train()
        torch.manual_seed(5)
        return float(distiller(*batch)["pkd@p3"].detach())

    alone = {precision: found(precision, None) for precision in ("bf16", "same")}
    assert alone["bf16"] != alone["same"]
    for precision in ("bf16", "same", "bf16"):  # one folder for both
        cache = MapCache(tmp_path / "cache", teacher, ["p3"])
        assert found(precision, cache) == pytest.approx(alone[precision], rel=1e-5)


def test_what_is_kept_is_what_the_terms_need(teacher):
    def needed(*terms, frames=False):
        return sorted(maps_needed(terms, teacher, frames=frames))

    assert needed(TermConfig("pkd", ["p3"])) == ["p3"]
    levels = ["p3", "p4", "rpn@p3", "rpn@p4"]
    assert needed(TermConfig("mine:Loss", ["p3"])) == levels  # it may look at any of them
    both = TermConfig("hint", ["c4"]), TermConfig("kl", ["roi.logits"])
    assert needed(*both) == ["c4", *levels]
    assert needed(TermConfig("frs", ["p3"])) == levels
    assert needed(TermConfig("pkd", ["p3", "p4"])) == levels  # one cache for all that read them
    assert needed(TermConfig("hint", ["c4"]), frames=True) == ["c4", *levels]


def test_neither_teacher_nor_rpn_runs_where_all_is_kept(student, teacher, batch, tmp_path):
    at_rpn = [TermConfig("objectness", ["rpn.logits"]), TermConfig("proposal_boxes", ["rpn.boxes"])]
    cache = MapCache(tmp_path, teacher, maps_needed(at_rpn, teacher))
    live = losses(student, teacher, batch, terms=at_rpn)
    assert losses(student, teacher, batch, cache, terms=at_rpn) == pytest.approx(live, rel=1e-3)
    cache.unchecked = 0
    ran = []
    for part in (teacher.backbone.body, teacher.rpn.head):
        part.register_forward_hook(lambda *_: ran.append(1))
    assert losses(student, teacher, batch, cache, terms=at_rpn) == pytest.approx(live, rel=2e-3)
    assert not ran


@pytest.mark.parametrize("kind", ["thin", "psroi"])
def test_of_a_thin_head_what_it_cuts_rois_out_of_is_kept(kind, batch, tmp_path):
    torch.manual_seed(0)
    light = {"roi_features": kind, "roi_channels": 2, "roi_size": 2}
    student, teacher = small(**light), small("resnet18@c4", **light).eval()
    answers = [TermConfig("kl", ["roi.logits"]), TermConfig("objectness", ["rpn.logits"])]
    names = maps_needed(answers, teacher)
    assert names == ["roi@p3", "roi@p4", "rpn@p3", "rpn@p4"]
    levels = ["p3", "p4", "rpn@p3", "rpn@p4"]  # of which RoIs can be cut as well
    assert maps_needed([*answers, TermConfig("pkd", ["p3"])], teacher) == levels
    assert maps_needed(answers, teacher, frames=True) == levels
    cache = MapCache(tmp_path, teacher, names)
    assert cache.bytes_a_view((96, 96)) < MapCache(tmp_path, teacher, levels).bytes_a_view((96, 96))
    live = losses(student, teacher, batch, terms=answers)
    assert losses(student, teacher, batch, cache, terms=answers) == pytest.approx(live, rel=1e-3)
    cache.unchecked = 0
    ran = []
    pool = teacher.roi_heads.box_roi_pool
    for part in (teacher.backbone, teacher.rpn.head, pool.reduce):
        part.register_forward_hook(lambda *_: ran.append(1))
    assert losses(student, teacher, batch, cache, terms=answers) == pytest.approx(live, rel=5e-3)
    assert not ran


@pytest.mark.parametrize("folder", [None, "cache"])
def test_views_are_marked_where_they_are_kept(folder, scenes, monkeypatch):
    document = json.loads((scenes / "all.json").read_text())
    half = {image["id"] for image in document["images"][:6]}
    for name, key in (("images", "id"), ("annotations", "image_id")):
        document[name] = [each for each in document[name] if each[key] in half]
    (scenes / "six.json").write_text(json.dumps(document))
    file = str(scenes / "six.json")
    experiment = Experiment(
        DataConfig(file, file, image_size=96, views=8, unlabelled=str(scenes / "scenes")),
        ModelConfig("shallow_x0.5_d1", levels=["p3"], anchor_sizes=[[16.0]]),
        TrainConfig(batch_size=4),
        distill=DistillConfig("t.pt", losses=TERMS, cache=folder),
    )
    monkeypatch.setattr("detkd.engine.parts.read_checkpoint", lambda _: {})  # no teacher is needed
    data, _ = open_data(experiment)
    targets = next(iter(build_loader(data, experiment, build_fabric(experiment.train))))[1]
    assert ["unlabelled" in target for target in targets] == [False] * 4 + [True] * 4
    assert ["view" in target for target in targets] == [folder is not None] * 8


def test_a_training_reads_its_cache(tiny, tmp_path, capsys):
    assert (
        launch("train", ["--config", str(tiny("t", train__epochs=1)), "--run", str(tmp_path / "t")])
        == 0
    )
    logs = []
    for name, folder in (
        ("plain", None),
        ("cached", str(tmp_path / "c")),
        ("again", str(tmp_path / "c")),
    ):
        terms = [{"name": "pkd", "at": ["p3"]}]
        distill = {"teacher": str(tmp_path / "t/best.pt"), "losses": terms, "cache": folder}
        more = {"data__augment": "microscope", "data__overlay": 0.5, "data__views": 2}
        config = tiny(name, distill=distill, **more)
        assert launch("train", ["--config", str(config), "--run", str(tmp_path / name)]) == 0
        lines = [line for line in read_log(RunFolder(tmp_path / name)) if line["kind"] == "train"]
        logs.append([line["pkd@p3"] for line in lines])
    assert "of all views take about 0.00 GiB in" in capsys.readouterr().out
    assert logs[1] == pytest.approx(logs[0], rel=1e-2)
    assert logs[2] == pytest.approx(logs[0], rel=1e-2)
