import json
import shlex
import signal
import statistics
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from detkd.cli.app import launch
from detkd.cli.arguments import read_experiment, read_kind
from detkd.config import ClassifierExperiment, Experiment
from detkd.engine.figures import KINDS
from detkd.engine.run import NEW_KEYS, RunFolder
from detkd.engine.study import Row, Study, Task, _settings, plan, read_study
from detkd.engine.study_results import Results
from detkd.engine.trainings import devices_given, killing_is_ctrl_c, run_all
from detkd.errors import ConfigError, DataError
from detkd.files import write_atomic

NO_HELP = {"description": "", "epilog": ""}


@pytest.fixture
def study(scenes, tiny, tmp_path, monkeypatch):
    """A study of three rows on rendered scenes, in its own folder."""
    monkeypatch.chdir(tmp_path)
    tiny("teacher", train__epochs=1)
    tiny("student", train__epochs=1)
    tiny("distill", train__epochs=1, distill={"teacher": "of the row's own"})
    tree = {
        "name": "small",
        "test": str(scenes / "all.json"),
        "rows": {
            "teacher": {"config": "teacher.yaml"},
            "plain": {"config": "student.yaml"},
            "pkd": {
                "config": "distill.yaml",
                "set": {
                    "distill.losses": [{"name": "pkd", "at": ["p3"]}],
                    "train.lr": 0.002,
                    "data.augment": "flip",
                },
            },
        },
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return tmp_path


def resolve(arguments):
    return read_experiment("detkd train", arguments, **NO_HELP)[0]


def alter(folder, **changes):
    tree = yaml.safe_load((folder / "study.yaml").read_text())
    (folder / "study.yaml").write_text(yaml.safe_dump({**tree, **changes}, sort_keys=False))


def results(folder):
    return json.loads((folder / "docs/results/small.json").read_text())["rows"]


@pytest.mark.slow
def test_a_study_runs_what_is_missing_and_writes_its_table(study, capsys):
    alter(study, teacher_seed=0)
    assert launch("study", [".", "--seeds", "0", "1", "--rows", "pkd"]) == 0
    rows = results(study)
    assert list(rows) == ["teacher", "pkd"]  # it cannot do without its teacher
    assert rows["teacher"]["seeds"] == [0]
    assert rows["pkd"]["seeds"] == [0, 1]
    assert len(rows["pkd"]["test_map"]) == len(rows["pkd"]["val_map"]) == 2
    assert rows["pkd"]["test_map"] == rows["pkd"]["val_map"]  # the same images here
    assert rows["pkd"]["parameters"] > rows["pkd"]["backbone_parameters"] > 0
    assert all(seconds > 0 for seconds in rows["pkd"]["seconds"])
    config = yaml.safe_load((study / "runs/small/pkd-1/config.yaml").read_text())
    assert config["name"] == "small/pkd-1"
    assert config["data"]["augment"] == "flip"
    assert config["train"]["seed"] == 1
    assert config["train"]["lr"] == 0.002
    assert config["distill"]["teacher"] == "runs/small/teacher-0/best.pt"

    said = capsys.readouterr().out
    assert said.count("begun") == 3
    assert launch("study", [".", "--seeds", "0"]) == 0
    said = capsys.readouterr().out
    assert said.count("begun") == 1  # the plain student alone
    assert list(results(study)) == ["teacher", "plain", "pkd"]
    pkd, plain = (results(study)[name] for name in ("pkd", "plain"))
    [paired] = pkd["paired"]
    line = paired["AP"]
    assert paired["against"] == "plain"
    assert line["difference"] == pytest.approx(
        statistics.mean(pkd["test_map"]) - plain["test_map"][0]
    )
    assert line["interval"][0] <= line["difference"] <= line["interval"][1]
    assert "paired" not in plain
    table = (study / "docs/results/small.md").read_text().splitlines()
    assert "| gap closed | test mAP, 95 % | less plain, 95 % | minutes |" in table[0]
    assert "{:.3f} to {:.3f}".format(*pkd["interval"]["AP"]) in table[4]
    assert [line.split(" | ")[0].strip("| ") for line in table[2:5]] == ["teacher", "plain", "pkd"]
    assert ["±" in line for line in table[2:5]] == [False, False, True]
    assert [line.strip() for line in table[8:10]] == [
        "detkd study . --rows teacher plain --seeds 0",
        "detkd study . --rows pkd --seeds 0 1",
    ]

    # The figures outlive the runs.
    (study / "runs").rename(study / "elsewhere")
    assert launch("study", [".", "--seeds", "0"]) == 0
    assert "begun" not in capsys.readouterr().out


def test_figures_that_cannot_be_made_neither_hang_a_study_nor_hide(tmp_path, monkeypatch):
    tasks = [Task(name, 0, tmp_path / name, [], "s") for name in ("a", "b", "c")]
    monkeypatch.setattr(
        "detkd.engine.trainings._train", lambda *_: subprocess.Popen([sys.executable, "-c", ""])
    )
    ended = []

    def figures(task):
        ended.append(task.row)
        raise DataError(f"{task.row}: no such truth.")

    with pytest.raises(DataError, match="a: no such truth"):
        run_all(tasks, figures)
    assert ended == ["a", "b", "c"]


def test_frames_of_the_test_images_are_refused(study, scenes, capsys):
    rows = yaml.safe_load((study / "study.yaml").read_text())["rows"]
    rows["pkd"]["set"]["data.unlabelled"] = str(scenes / "scenes")
    alter(study, rows=rows)
    assert launch("study", [".", "--rows", "pkd"]) == 2
    said = capsys.readouterr().err
    assert "12 of its 12 images are those of" in said and said.count("\n") == 1
    assert not (study / "runs").exists()


def test_figures_of_other_boxes_are_not_mixed(study, scenes, tmp_path):
    document = json.loads((scenes / "all.json").read_text())
    truth = tmp_path / "train.json"
    truth.write_text(json.dumps(document))
    rows = yaml.safe_load((study / "study.yaml").read_text())["rows"]
    rows["plain"]["set"] = {"data.train": str(truth)}
    alter(study, rows=rows)

    def task():
        return plan(read_study(study), [0], resolve, ["plain"])[0]

    before = task()
    Results(read_study(study)).add(before, {"test_map": 0.5})
    assert Results(read_study(study)).holds(task())
    before.claim()
    write_atomic(before.run / "data.txt", before.data)  # as a training does when it begins
    document["annotations"].pop()
    truth.write_text(json.dumps(document))
    assert not Results(read_study(study)).holds(task())
    with pytest.raises(ConfigError, match="trained with other images or boxes"):
        task().claim()
    truth.unlink()  # where the data is not there, its figures still are
    assert task().data is None
    assert Results(read_study(study)).holds(task())


def test_figures_of_another_test_are_not_mixed(study, scenes, tmp_path):
    document = json.loads((scenes / "all.json").read_text())
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps(document))
    alter(study, test=str(truth))
    task = Task("plain", 0, study, [], "s")
    Results(read_study(study)).add(task, {"test_map": 0.5})
    named = [{**image, "sample": "lake"} for image in document["images"]]
    truth.write_text(
        json.dumps({**document, "images": named, "info": {"description": "elsewhere"}})
    )
    assert Results(read_study(study)).holds(task)  # the same images and boxes
    document["annotations"].pop()
    truth.write_text(json.dumps(document))
    with pytest.raises(ConfigError, match="figures are of other test images or boxes"):
        Results(read_study(study))
    truth.unlink()  # where the test is not there, its figures still are
    assert Results(read_study(study)).holds(task)


@pytest.mark.parametrize(
    ("changes", "teachers"),
    [
        ({}, ["runs/small/teacher-0/best.pt", "runs/small/teacher-1/best.pt"]),
        ({"teacher_seed": 4}, ["runs/small/teacher-4/best.pt"] * 2),
        ({"teacher": "runs/other/teacher-0/best.pt"}, ["runs/other/teacher-0/best.pt"] * 2),
    ],
)
def test_whom_a_student_learns_from(study, changes, teachers):
    alter(study, **changes)
    tasks = plan(read_study(study / "study.yaml"), [0, 1], resolve, ["pkd"])
    students = [task for task in tasks if task.row == "pkd"]
    found = [resolve(task.arguments).distill.teacher for task in students]
    assert [str(Path(path).resolve().relative_to(study)) for path in found] == teachers
    if "teacher" in changes:
        assert tasks == students  # it is there already
    else:
        assert [task.after.run / "best.pt" for task in students] == [
            Path(teacher) for teacher in teachers
        ]


@pytest.mark.parametrize(
    ("seed", "rows", "teachers"),
    [(4, [], [4]), (4, ["teacher", "pkd"], [0, 1, 4]), (None, [], [0, 1])],
)
def test_a_teacher_of_all_seeds_is_trained_once_unless_it_is_named(study, seed, rows, teachers):
    if seed is not None:
        alter(study, teacher_seed=seed)
    tasks = plan(read_study(study / "study.yaml"), [0, 1], resolve, rows)
    assert sorted(task.seed for task in tasks if task.row == "teacher") == teachers
    assert sorted(task.seed for task in tasks if task.row == "pkd") == [0, 1]
    assert [task.row for task in tasks].count("plain") == (0 if rows else 2)


def test_what_a_study_sets_holds_for_all_rows_that_do_not_set_it_themselves(study):
    tree = yaml.safe_load((study / "study.yaml").read_text())
    plain = {"config": "student.yaml", "set": {"train.lr": 0.004}}
    rows = {"teacher": tree["rows"]["teacher"], "plain": plain}
    shared = {"train.lr": 0.003, "train.epochs": 1}
    alter(study, set=shared, rows=rows)
    tasks = plan(read_study(study / "study.yaml"), [0], resolve)
    found = {task.row: resolve(task.arguments).train for task in tasks}
    assert {row: (t.lr, t.epochs) for row, t in found.items()} == {
        "teacher": (0.003, 1),
        "plain": (0.004, 1),
    }


def test_a_row_whose_settings_change_begins_anew(study):
    results = Results(Study(study / "study.yaml", "small", {"a": Row("x")}))
    figures = {"val_map": 0.5, "test_map": None, "test_ap50": None, "seconds": 1.0}
    for seed in (2, 0):
        results.add(Task("a", seed, study, [], "old"), figures)
    assert results.rows["a"]["seeds"] == [0, 2]
    assert results.holds(Task("a", 2, study, [], "old"))
    assert not results.holds(Task("a", 2, study, [], "new"))
    results.add(Task("a", 2, study, [], "new"), figures)
    assert results.rows["a"]["seeds"] == [2]


def test_a_row_whose_loss_from_outside_changes_is_another(study, monkeypatch):
    monkeypatch.syspath_prepend(str(study))
    code = "from torch import nn\nclass Mine(nn.Module):\n    pass\n"
    (study / "their_losses.py").write_text(code)
    tree = yaml.safe_load((study / "study.yaml").read_text())
    losses = {"distill.losses": [{"name": "their_losses:Mine", "at": ["p3"]}]}
    alter(study, rows={**tree["rows"], "pkd": {"config": "distill.yaml", "set": losses}})

    def digest():
        [*_, task] = plan(read_study(study / "study.yaml"), [0], resolve, ["pkd"])
        return task.settings

    before = digest()
    assert digest() == before
    (study / "their_losses.py").write_text(code + "# mended\n")
    assert digest() != before


def test_a_row_that_was_run_before_there_was_a_test_is_judged_on_it(study, scenes):
    path = study / "study.yaml"
    figures = {"val_map": 0.5, "test_map": None, "test_ap50": None, "seconds": 1.0}
    task = Task("a", 0, study, [], "s")
    Results(Study(path, "small", {"a": Row("x")})).add(task, figures)
    of = Study(path, "small", {"a": Row("x")}, scenes / "all.json")
    assert not Results(of).holds(task)
    Results(of).add(task, {"test_map": 0.25})
    assert Results(of).holds(task)
    assert results(study)["a"]["val_map"] == [0.5]
    # What they are of is not forgotten where the test is not there.
    said = json.loads((study / "docs/results/small.json").read_text())["test"]
    away = Study(path, "small", {"a": Row("x")}, study / "away.json")
    Results(away).add(Task("a", 1, study, [], "s"), {"test_map": 0.5})
    assert json.loads((study / "docs/results/small.json").read_text())["test"] == said


def test_a_student_of_another_teachers_seed_is_another_row(study):
    def settings(**changes):
        alter(study, **changes)
        tasks = plan(read_study(study / "study.yaml"), [1], resolve)
        return {task.row: task.settings for task in tasks}

    own, first = settings(), settings(teacher_seed=0)
    fifth, file = settings(teacher_seed=4), settings(teacher="runs/other/best.pt")
    assert len({each["pkd"] for each in (own, first, fifth, file)}) == 4
    assert len({each["plain"] for each in (own, first, fifth, file)}) == 1
    assert own["teacher"] == first["teacher"] == fifth["teacher"]


def test_a_study_has_the_name_of_the_folder_that_it_lies_in(study, monkeypatch):
    tree = yaml.safe_load((study / "study.yaml").read_text())
    del tree["name"]
    (study / "study.yaml").write_text(yaml.safe_dump(tree))
    monkeypatch.chdir(study)
    assert read_study(Path("study.yaml")).name == read_study(Path()).name == study.name


def test_no_job_at_a_time_is_refused(study, capsys):
    assert launch("study", [".", "--jobs", "0"]) == 2
    assert "--jobs: 0 trainings never end" in capsys.readouterr().err


@pytest.mark.slow
def test_the_table_alone_is_made_of_what_is_there(study, capsys):
    run = study / "runs/small/plain-0"
    assert launch("study", [".", "--rows", "plain"]) == 0
    (study / "docs/results/small.json").unlink()
    capsys.readouterr()
    assert launch("study", [".", "--table-only"]) == 1
    said = capsys.readouterr().out
    assert "begun" not in said
    assert said.count("not there: ") == 2
    assert results(study)["plain"]["seeds"] == [0]
    assert run.is_dir() and not run.with_name("teacher-0").exists()


@pytest.mark.parametrize(
    ("given", "count", "ours"),
    [
        (None, 2, ["0", "1"]),
        ("3", 1, ["3"]),
        ("GPU-5a, GPU-77", 2, ["GPU-5a", "GPU-77"]),
        ("", 0, []),
    ],
)
def test_trainings_keep_to_the_gpus_that_were_given(monkeypatch, given, count, ours):
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    if given is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert devices_given() == ours


def test_two_runners_of_a_study_keep_each_others_figures(study):
    of = Study(study / "study.yaml", "small", {"a": Row("x"), "b": Row("x")})
    one, other = Results(of), Results(of)
    figures = {"val_map": 0.5, "test_map": None, "test_ap50": None, "seconds": 1.0}
    one.add(Task("b", 0, study, [], "s"), figures)
    other.add(Task("a", 0, study, [], "s"), figures)
    one.add(Task("b", 1, study, [], "s"), figures)
    assert list(results(study)) == ["a", "b"]
    assert results(study)["b"]["seeds"] == [0, 1]


def test_a_run_of_other_settings_is_not_taken_for_this_one(study, capsys):
    run = study / "runs/small/plain-0"
    run.mkdir(parents=True)
    (run / "settings.txt").write_text("of another row")
    assert launch("study", [".", "--rows", "plain"]) == 2
    assert "holds a run of other settings than row 'plain' has now" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (Experiment, {"model__roi_features": "thin"}),
        (ClassifierExperiment, {"data__group_gap": 60.0}),
    ],
)
def test_what_has_run_before_a_key_was_there_is_not_run_again(tmp_path, kind, change):
    def settings(**changes):
        tree = {"data": {"train": "a", "val": "b"}, "model": {}}
        for key, value in changes.items():
            part, _, name = key.partition("__")
            tree[part][name] = value
        (tmp_path / "a.yaml").write_text(yaml.safe_dump(tree))
        experiment = read_kind(kind, "x", ["--config", str(tmp_path / "a.yaml")], **NO_HELP)[0]
        return experiment, _settings(experiment, "")

    (experiment, now), (_, other) = settings(), settings(**change)
    tree = experiment.as_dict()
    known = [(part, key) for part, key in NEW_KEYS if key in tree[part]]
    assert known
    for part, key in known:
        del tree[part][key]
    older = type("Older", (), {"as_dict": lambda self: tree})()
    assert now == _settings(older, "")
    assert other != now


def test_the_table_by_hand(study):
    names = ("teacher", "plain", "best")
    results = Results(Study(study / "study.yaml", "small", {name: Row("x") for name in names}))
    for name, scores in zip(names, ((0.6, 0.7), (0.4, 0.5), (0.6, 0.6)), strict=True):
        for seed, score in enumerate(scores):
            figures = {"val_map": score, "test_map": None, "test_ap50": None, "seconds": 90.0}
            results.add(Task(name, seed, study, [], "s"), figures)
    best = results.table()[2]
    assert best == {
        "row": "best",
        "seeds": "2",
        "val mAP": "0.600 ± 0.000",
        "test mAP": "-",
        "test AP50": "-",
        "gap closed": "75%",  # (.60 - .45) / (.65 - .45)
        "minutes": "2",
    }
    assert results.table()[0]["val mAP"] == "0.650 ± 0.071"


def test_intervals_are_of_the_runs_and_the_truth_that_are_there(study, monkeypatch):
    asked = []

    def paired(ours, theirs, test):
        asked.append(([run.name for run in ours.runs], [run.name for run in theirs.runs]))
        return {"AP": {}}

    kind = replace(KINDS["train"], interval=lambda line, test: {"AP": [0.0, 1.0]}, paired=paired)
    monkeypatch.setitem(KINDS, "train", kind)
    truth = study / "test.json"
    document = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}
    truth.write_text(json.dumps(document))
    rows = {name: Row("x") for name in ("teacher", "plain", "best")}
    of = Study(study / "study.yaml", "small", rows, truth)

    def run(name, seed):
        task = Task(name, seed, of.runs / f"{name}-{seed}", [], "s")
        task.claim()
        Results(of).add(task, {"val_map": 0.5, "test_map": 0.5, "test_ap50": 0.5, "seconds": 9.0})

    run("plain", 0)
    run("best", 0)
    Results(of).compare()
    Results(of).compare()
    assert asked == [(["best-0"], ["plain-0"])]  # once
    assert set(results(study)["best"]) >= {"interval", "paired"}
    run("plain", 1)  # what best was compared with is the half of it now
    assert "paired" not in results(study)["best"]
    assert "interval" in results(study)["best"]
    Results(of).compare()
    truth.write_text(json.dumps({**document, "info": "since then"}))
    Results(of).compare()
    assert asked[1:] == [(["best-0"], ["plain-0", "plain-1"])] * 2
    (of.runs / "plain-0/settings.txt").write_text("other")
    truth.write_text(json.dumps(document))
    Results(of).compare()
    assert len(asked) == 3  # a run of other settings is not the row's
    assert "paired" in results(study)["best"]
    rows["best"] = Row("x", gap=["teacher", "plain"])
    Results(of).compare()
    assert "paired" not in results(study)["best"]


def test_differences_that_are_asked_for_by_hand(study):
    def line(difference, limits, p):
        return {"difference": difference, "interval": limits, "p": p}

    rows = {
        "plain": Row("x"),
        "best": Row("x", against=["teacher", "plain @ c2"]),
        "teacher": Row("x"),
    }
    of = Study(study / "study.yaml", "small", rows)
    tests = [
        {"against": "plain", "AP": line(0.1, [0.05, 0.15], 0.001)},
        {"against": "teacher", "AP": line(-0.2, None, 0.02)},
    ]
    results = Results(of)
    for name in rows:
        found = {"val_map": 0.5, "test_map": 0.5, "test_ap50": 0.5, "seconds": 9.0}
        results.add(Task(name, 0, study, [], "s"), found)
    results.rows["best"]["paired"] = tests
    table = {row["row"]: row for row in results.table()}
    assert table["best"]["less plain, 95 %"] == "+0.100 (+0.050 to +0.150)"
    assert table["best"]["gap closed"] == "-"  # nothing lies between equal rows
    asked = {
        "row": "best",
        "less": "teacher",
        "difference of test mAP, 95 %": "-0.200",
        "over seeds, 95 %": "-",  # of one seed there is no spread
        "p": "0.020",
        "p of all": "0.040",  # two are asked for, and one has been run
    }
    assert results.differences() == [asked]
    for name, scores in (("best", [0.6, 0.8]), ("teacher", [0.1, 0.3])):
        results.rows[name]["test_map"] = scores
    limits = {"over seeds, 95 %": "-0.108 to +1.108"}  # .5 and 4.3027 times the root of .02
    assert results.differences() == [{**asked, **limits}]
    tests[1]["AP"]["p"] = None  # a test without boxes
    assert results.differences() == []


def test_a_row_with_exits_has_a_line_for_each_by_hand(study):
    rows = {"own": Row("x", gap=[])}
    results = Results(Study(study / "study.yaml", "small", rows, command="train-cls"))
    scores = dict.fromkeys(results.study.kind.scores.values(), 0.5)
    for seed, shallow in enumerate((0.2, 0.4)):
        cost = {"seconds": 9.0, "parameters": 70, "gflops": 0.007}
        exit_ = {**scores, "test_top1": shallow, "parameters": 20, "gflops": 0.002}
        results.add(
            Task("own", seed, study, [], "s", command="train-cls"),
            {**scores, **cost, "exits": {"c2": exit_}},
        )
    whole, line = Results(results.study).table()
    assert (whole["row"], line["row"]) == ("own", "own @ c2")
    assert line["test top-1"] == "0.300 ± 0.141"
    assert line["val balanced"] == whole["test top-1"] == "0.500 ± 0.000"
    assert (line["params"], line["MFLOPs"], line["gap closed"]) == ("20", "2.0", "-")
    assert (whole["params"], whole["seeds"], line["seeds"]) == ("70", "2", "2")


def test_the_gap_can_be_between_other_rows_and_old_results_lack_new_scores(study):
    rows = {
        "full": Row("x", gap=["small", "full"]),
        "small": Row("x", gap=["small", "full"]),
        "own": Row("x", gap=["small", "full"]),
        "other": Row("x", gap=[]),
    }
    of = Study(study / "study.yaml", "small", rows, command="train-cls")
    results = Results(of)
    costs = {"seconds": 3.0, "parameters": 41296, "gflops": 0.0125}
    for name, score in zip(rows, (0.8, 0.6, 0.65, 0.9), strict=True):
        found = {"val_top1": 0.5, "val_balanced": score, "val_macro_f1": 0.25}
        results.add(Task(name, 0, study, [], "s"), {**found, "test_balanced": None, **costs})
    table = {row["row"]: row for row in Results(of).table()}
    assert [row["gap closed"] for row in table.values()] == ["100%", "0%", "25%", "-"]
    for low, closed in ((0.1, "25%"), (-0.1, "-")):  # a gap that may be none is not shared
        line = {"difference": 0.2, "interval": [low, 0.3], "p": 0.1}
        results.rows["full"]["paired"] = [{"against": "small", "balanced_accuracy": line}]
        assert results.table()[2]["gap closed"] == closed
    assert table["own"] == {
        "row": "own",
        "seeds": "1",
        "val top-1": "0.500",
        "val balanced": "0.650",
        "val macro F1": "0.250",
        "test top-1": "-",
        "test balanced": "-",
        "test macro F1": "-",
        "gap closed": "25%",
        "params": "41,296",
        "MFLOPs": "12.5",
        "seconds": "3",
    }
    path = study / "docs/results/small.json"
    tree = json.loads(path.read_text())
    del tree["rows"]["own"]["val_top1"]  # as a version wrote it that did not tell it
    path.write_text(json.dumps(tree))
    assert Results(of).table()[2]["val top-1"] == "-"


def test_a_part_that_came_later_changes_no_digest_of_a_row_without_it(study):
    """As it was before a detector could be its own teacher: what has been run need not be again."""
    with_none, without = (
        types.SimpleNamespace(
            as_dict=lambda own=own: (
                {"name": "x", "data": {}, "model": {}, "train": {"seed": 1}, "distill": None} | own
            )
        )
        for own in ({"self_distill": None}, {})
    )
    assert _settings(with_none, "") == _settings(without, "")
    taught = types.SimpleNamespace(
        as_dict=lambda: {**without.as_dict(), "self_distill": {"alpha": 0.3}}
    )
    assert _settings(taught, "") != _settings(without, "")


def test_a_run_that_no_study_has_begun_is_left_alone(study, capsys):
    run = study / "runs/small/plain-0"
    run.mkdir(parents=True)
    (run / "best.pt").write_text("mine")
    assert launch("study", [".", "--rows", "plain"]) == 2
    said = capsys.readouterr().err
    assert "plain-0: holds a run that no study has begun" in said and said.count("\n") == 1
    assert [path.name for path in run.iterdir()] == ["best.pt"]


@pytest.mark.slow
def test_a_training_that_fails_is_named_and_the_others_go_on(study, capsys):
    tree = yaml.safe_load((study / "study.yaml").read_text())
    tree["rows"]["broken"] = {"config": "student.yaml", "set": {"model.backbone": "no_such"}}
    tree["rows"]["pupil"] = {"config": "distill.yaml", "teacher": "broken"}
    (study / "study.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    assert launch("study", [".", "--rows", "pupil", "plain"]) == 1
    said = capsys.readouterr().out
    assert "failed: broken, seed 0; see runs/small/broken-0.log" in said
    assert "failed: pupil, seed 0" in said
    assert "no_such" in (study / "runs/small/broken-0.log").read_text()
    assert list(results(study)) == ["plain"]


def test_slurm_lets_what_fails_stop_its_own_students_alone(study, capsys):
    spaced = study / "my study.yaml"
    spaced.write_text((study / "study.yaml").read_text())
    assert launch("study", [str(spaced), "--seeds", "0", "1", "--print-slurm"]) == 0
    lines = capsys.readouterr().out.splitlines()
    heads = [line for line in lines if "sbatch" in line]
    assert heads[0].startswith("job0=$(sbatch --parsable --array=0-3")
    for at, index in ((1, 0), (2, 2)):  # each student after its own teacher alone
        waits = f"--dependency=afterok:${{job0}}_{index} --kill-on-invalid-dep=yes --array=0-0"
        assert heads[at].startswith(f"job{at}=$(sbatch --parsable {waits}")
    assert heads[3].startswith("sbatch --dependency=afterany:$job0:$job1:$job2 --wrap ")
    assert [line for line in lines if line.startswith("tasks=")] == [
        "tasks=(teacher:0 plain:0 teacher:1 plain:1)", "tasks=(pkd:0)", "tasks=(pkd:1)",
    ]  # fmt: skip
    asked = [line for line in lines if line.startswith("srun ")]
    assert all(shlex.split(line)[1:4] == ["detkd", "study", str(spaced)] for line in asked)
    assert shlex.split(shlex.split(heads[3])[-1])[:3] == ["detkd", "study", str(spaced)]


def test_the_slurm_script_is_bash_and_keeps_the_order(study, capsys):
    assert launch("study", [".", "--seeds", "0", "1", "--print-slurm"]) == 0
    script = capsys.readouterr().out
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    # Run with stand-ins for SLURM, each array task in turn, it asks for the very six trainings.
    stand_in = (
        'sbatch() { if [[ $* == *--wrap* ]]; then echo "last $*" >&2; return; fi; local n=${@: -1};'
        " local body=$(cat); n=${n#--array=0-}; for i in $(seq 0 $n);"
        ' do SLURM_ARRAY_TASK_ID=$i bash -c "srun() { echo \\$*; }; $body" >&2; done; echo 7; }\n'
    )
    done = subprocess.run(
        ["bash"], input=stand_in + script, text=True, capture_output=True, check=True
    )
    asked = [line.split("study.yaml ")[1] for line in done.stderr.splitlines()]
    assert sorted(asked[:4]) == [
        f"--rows {row} --seeds {seed} --no-table" for row in ("plain", "teacher") for seed in (0, 1)
    ]
    assert asked[4:6] == [f"--rows pkd --seeds {seed} --no-table" for seed in (0, 1)]
    assert asked[6] == "--table-only --seeds 0 1"


@pytest.mark.parametrize("rows", [[], ["pkd"]])
def test_the_table_s_job_asks_for_no_training_that_the_others_have_not(study, rows, capsys):
    alter(study, teacher_seed=0)
    named = ["--rows", *rows] if rows else []
    assert launch("study", [".", "--seeds", "1", "2", *named, "--print-slurm"]) == 0
    words = shlex.split(shlex.split(capsys.readouterr().out.splitlines()[-1])[-1])
    assert words[3:] == ["--table-only", "--seeds", "1", "2", *named]
    tasks = plan(read_study(study / "study.yaml"), [1, 2], resolve, rows)
    assert sorted({task.seed for task in tasks if task.row == "teacher"}) == [0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rwos": {}}, "unknown key 'rwos'; did you mean 'rows'?"),
        ({"rows": {}}, "is no study"),
        ({"teacher_seed": "first"}, "teacher_seed: 'first' is no seed"),
        ({"set": ["train.epochs"]}, "set: ['train.epochs'] names no settings"),
        ({"rows": {"a": {"config": "student.yaml", "set": 3}}}, "rows.a.set: 3 names no settings"),
        ({"rows": {"a": {"set": {}}}}, "rows.a: names no 'config'"),
        ({"rows": {"a": {"config": "student.yaml", "sett": {}}}}, "did you mean 'rows.a.set'?"),
        ({"gap": ["plain", "best"]}, "rows.teacher.gap: ['plain', 'best'] are not two rows"),
        ({"gap": 3}, "rows.teacher.gap: 3 are not two rows"),
        (
            {"rows": {"a": {"config": "student.yaml", "against": "a"}}},
            "rows.a.against: 'a' is no list of names; name lines of the table",
        ),
        (
            {"rows": {"a": {"config": "student.yaml", "against": [1]}}},
            "rows.a.against: [1] is no list of names",
        ),
        ({"rows": {"a @ b": {"config": "student.yaml"}}}, "' @ ' stands before an exit"),
        (
            {"rows": {"a": {"config": "student.yaml", "against": ["b @ c2"]}}},
            "rows.a.against: there is no row 'b'; there are a.",
        ),
        ({"rows": {"a": {"config": "distill.yaml"}}}, "no row 'teacher'; there are a."),
        (
            {"rows": {"a": {"config": "distill.yaml", "teacher": "a"}}},
            "rows.a: is its own teacher",
        ),
        (
            {"rows": {"a": {"config": "student.yaml", "set": {"train.epoch": 3}}}},
            "did you mean 'train.epochs'?",
        ),
    ],
)
def test_a_wrong_study_is_refused_in_a_sentence(study, capsys, change, said):
    alter(study, **change)
    assert launch("study", ["."]) == 2
    assert said in capsys.readouterr().err


def test_a_study_that_is_killed_ends_as_by_ctrl_c():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), killing_is_ctrl_c():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_two_processes_do_not_train_in_one_folder(tmp_path, tiny, capsys):
    argv = ["--config", str(tiny(train__epochs=1)), "--run", str(tmp_path / "run")]
    with RunFolder(tmp_path / "run").alone():
        assert launch("train", argv) == 2
    assert "another process trains in it" in capsys.readouterr().err
    assert launch("train", argv) == 0
