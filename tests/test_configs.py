"""The configs of a study are complete, and differ only in what the study varies."""

import pytest
import yaml

from detkd.cli.arguments import read_experiment, read_kind
from detkd.config import (
    ClassifierExperiment,
    HeadsConfig,
    PublishedWeight,
    ScheduleConfig,
    TermConfig,
)
from detkd.engine.study import plan, read_study
from detkd.errors import ConfigError
from detkd.models.classifier import build_classifier
from detkd.shipped import shipped

STUDIES = ("synthetic", "bccd", "microalgae", "pmid2019")
# A teacher is trained to its own end, at its own rate.
VARIED_BY_TEACHER = {"name", "model.backbone", "model.weights", "train.epochs", "train.lr"}
VARIED_BY_DISTILLING = {"name", "distill"}


def read(study, role):
    path = shipped("configs", study, f"{role}.yaml")
    return read_experiment("detkd train", ["--config", str(path)], description="", epilog="")[0]


def flat(experiment):
    out = {}
    for key, value in experiment.as_dict().items():
        if isinstance(value, dict) and key != "distill":
            out |= {f"{key}.{inner}": item for inner, item in value.items()}
        else:
            out[key] = value
    return out


def differing(a, b):
    a, b = flat(a), flat(b)
    return {key for key in a if a[key] != b[key]}


@pytest.mark.parametrize("study", STUDIES)
def test_teacher_and_student_differ_in_the_backbone_alone(study):
    assert differing(read(study, "teacher"), read(study, "student")) <= VARIED_BY_TEACHER


@pytest.mark.parametrize("study", STUDIES)
def test_plain_and_distilled_student_differ_in_the_teacher_alone(study):
    assert differing(read(study, "student"), read(study, "distill")) == VARIED_BY_DISTILLING


@pytest.mark.parametrize("study", STUDIES)
def test_the_distilled_student_names_the_teachers_run(study):
    assert read(study, "distill").distill.teacher == f"runs/{study}-teacher/best.pt"


@pytest.mark.parametrize("reading", ["reading_a", "reading_b", "reading_a_then_b"])
def test_the_papers_readings_differ_in_what_the_teacher_says_alone(reading):
    assert differing(read("microalgae", "student"), read("microalgae", reading)) == (
        VARIED_BY_DISTILLING
    )


@pytest.mark.parametrize(
    ("folder", "count"),
    [
        ("microalgae", 9),
        ("bccd", 2),
        ("pmid2019", 1),
        ("marine", 5),
        ("land_use", 4),
        ("self_distill", 4),
    ],
)
def test_every_study_is_one_whose_rows_can_be_trained(folder, count):
    def resolve(argv):
        return read_kind(study.kind.experiment, "detkd", argv, description="", epilog="")[0]

    paths = shipped("configs", folder).glob("*.yaml")
    studies = [path for path in paths if "rows" in yaml.safe_load(path.read_text())]
    assert len(studies) == count
    for path in studies:
        study = read_study(path)
        assert len(plan(study, [0], resolve)) >= 3, path


def test_the_papers_config_has_its_networks_and_classes():
    assert read("pmid2019", "teacher").model.backbone == "vgg16"
    assert read("pmid2019", "student").model.backbone == "vgg11"
    card = yaml.safe_load(shipped("datasets", "pmid2019.yaml").read_text())
    assert len(card["classes"]) == 24


def test_every_form_of_a_term_and_of_the_heads_is_read(tmp_path):
    config = tmp_path / "distill.yaml"
    config.write_text(
        "data: {train: a.json, val: b.json}\n"
        "distill:\n"
        "  teacher: t.pt\n"
        "  heads: {neck: inherit, rpn: freeze, roi_heads: none}\n"
        "  losses:\n"
        "    - {name: pkd, at: [p3], weight: {published: 6.0}, schedule: {warmup: 10}}\n"
        "    - {name: kl, at: [roi.logits], weight: 2}\n"
    )
    distill = read_experiment("x", ["--config", str(config)], description="", epilog="")[0].distill
    assert distill.heads == HeadsConfig("inherit", "freeze", "none")
    assert distill.losses == [
        TermConfig("pkd", ["p3"], PublishedWeight(6.0), {}, ScheduleConfig(warmup=10)),
        TermConfig("kl", ["roi.logits"], 2.0),
    ]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("schedule: {warmpu: 1}", r"did you mean 'distill\.losses\.schedule\.warmup'"),
        ("weight: {publish: 1}", r"did you mean 'distill\.losses\.weight\.published'"),
    ],
)
def test_a_wrong_key_inside_a_term_is_named(tmp_path, wrong, said):
    config = tmp_path / "distill.yaml"
    config.write_text(
        "data: {train: a.json, val: b.json}\n"
        "distill: {teacher: t.pt, losses: [{name: pkd, at: [p3], " + wrong + "}]}\n"
    )
    with pytest.raises(ConfigError, match=said):
        read_experiment("x", ["--config", str(config)], description="", epilog="")


@pytest.mark.parametrize("how", ["option", "option in two words", "second config"])
def test_a_list_of_losses_is_replaced_whole(tmp_path, how):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(
        "data: {train: a.json, val: b.json}\n"
        "distill: {teacher: t.pt, losses: "
        "[{name: cwd, at: [p3], weight: 7, options: {tau: 2}, schedule: {warmup: 4}}]}\n"
    )
    second.write_text("distill: {losses: [{name: kl, at: [roi.logits]}]}\n")
    value = '[{"name": "kl", "at": ["roi.logits"]}]'
    more = {
        "option": [f"--distill.losses={value}"],
        "option in two words": ["--distill.losses", value],
        "second config": ["--config", str(second)],
    }[how]
    argv = ["--config", str(first), *more]
    distill = read_experiment("x", argv, description="", epilog="")[0].distill
    assert distill.losses == [TermConfig("kl", ["roi.logits"])]
    assert distill.teacher == "t.pt"


def test_a_teacher_alone_gives_its_answers(tmp_path):
    config = tmp_path / "a.yaml"
    config.write_text("data: {train: a.json, val: b.json}\ndistill: {teacher: t.pt}\n")

    def losses(*more):
        argv = ["--config", str(config), *more]
        return read_experiment("x", argv, description="", epilog="")[0].distill.losses

    assert losses() == read("microalgae", "distill").distill.losses
    assert losses("--distill.losses=[]") == []
    added = losses('--distill.losses+={"name": "pkd", "at": ["p4"]}')
    assert [term.name for term in added] == [*(term.name for term in losses()), "pkd"]


def test_a_key_of_one_term_of_the_list_is_no_option(tmp_path):
    """It would change the last term alone, and nobody would be told."""
    config = tmp_path / "a.yaml"
    config.write_text("data: {train: a.json, val: b.json}\ndistill: {teacher: t.pt}\n")
    for key in ("weight=1", "schedule.stop=0.5", "options={}"):
        argv = ["--config", str(config), f"--distill.losses.{key}"]
        with pytest.raises(ConfigError, match="give the whole list"):
            read_experiment("x", argv, description="", epilog="")


def test_a_classifiers_teacher_alone_gives_softened_classes(tmp_path):
    config = tmp_path / "a.yaml"
    config.write_text("data: {train: a}\ndistill: {teacher: t.pt}\n")
    argv = ["--config", str(config)]
    read_one = read_kind(ClassifierExperiment, "x", argv, description="", epilog="")[0]
    assert read_one.distill.losses == [TermConfig("kl", ["logits"], 1.0, {"temperature": 4.0})]


def test_a_loss_can_be_added_to_a_list(tmp_path):
    config = tmp_path / "a.yaml"
    config.write_text(
        "data: {train: a.json, val: b.json}\n"
        "distill: {teacher: t.pt, losses: [{name: cwd, at: [p3], weight: 7}]}\n"
    )
    argv = ["--config", str(config), '--distill.losses+={"name": "pkd", "at": ["p4"]}']
    distill = read_experiment("x", argv, description="", epilog="")[0].distill
    assert distill.losses == [TermConfig("cwd", ["p3"], 7.0), TermConfig("pkd", ["p4"])]


# Of the classifiers' studies: pairs of configs, and what alone may differ in them.
CLASSIFIERS = [
    (
        "marine/teacher",
        "marine/student",
        {"model.backbone", "model.attention", "loss.smoothing", "train.lr"},
    ),
    ("marine/student", "marine/distill", {"distill"}),
    ("marine/distill", "marine/hint", {"distill"}),
    ("land_use/teacher", "land_use/student", {"model.backbone", "loss.smoothing"}),
    ("land_use/student", "land_use/distill", {"distill"}),
    *[
        pair
        for net in ("resnet18", "vgg11")
        for pair in (
            (f"self_distill/{net}_full", f"self_distill/{net}_student", {"model.convolutions"}),
            (
                f"self_distill/{net}_student",
                f"self_distill/{net}_distill",
                {"model.exits", "self_distill"},
            ),
        )
    ],
]


def read_classifier(name):
    argv = ["--config", str(shipped("configs", f"{name}.yaml"))]
    return read_kind(ClassifierExperiment, "x", argv, description="", epilog="")[0]


@pytest.mark.parametrize(("one", "other", "varied"), CLASSIFIERS)
def test_configs_of_classifiers_differ_in_what_is_studied_alone(one, other, varied):
    trees = [read_classifier(name).as_dict() for name in (one, other)]
    found = set()
    for key, value in trees[0].items():
        theirs = trees[1][key]
        if key in ("distill", "self_distill") or not isinstance(value, dict):
            found |= {key} if value != theirs else set()
        else:
            found |= {f"{key}.{inner}" for inner in value if value[inner] != theirs[inner]}
    assert found == {"name", *varied}


@pytest.mark.parametrize("study", ["marine", "land_use"])
def test_the_distilled_classifier_names_its_teachers_run(study):
    experiment, teacher = (read_classifier(f"{study}/{role}") for role in ("distill", "teacher"))
    assert experiment.distill.teacher == f"runs/{teacher.name}/best.pt"


@pytest.mark.parametrize(
    ("study", "rows", "learning"),
    [("marine", 11, 4), ("land_use", 6, 4), ("self_distill", 16, 0)],
)
def test_every_study_of_classifiers_is_one_whose_rows_can_be_built(study, rows, learning):
    experiments = {}

    def resolve(argv):
        experiment = read_kind(ClassifierExperiment, "x", argv, description="", epilog="")[0]
        experiments[experiment.name] = experiment
        return experiment

    of = read_study(shipped("configs", study))
    tasks = plan(of, [0], resolve)
    assert len(tasks) == rows
    assert sum(task.after is not None for task in tasks) == learning
    for experiment in experiments.values():
        network = build_classifier(experiment.model, ("a", "b"), 64)
        assert bool(network.exits) == bool(experiment.self_distill)
    assert len({task.settings for task in tasks}) == rows  # no row is another one


def test_a_detectors_key_is_none_of_a_classifier(tmp_path):
    config = tmp_path / "a.yaml"
    config.write_text("data: {train: crops}\nmodel: {neck: fpn}\n")
    argv = ["--config", str(config)]
    with pytest.raises(ConfigError, match=r"'model\.neck' is a key of 'detkd train'"):
        read_kind(ClassifierExperiment, "x", argv, description="", epilog="")
