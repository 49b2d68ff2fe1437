"""Classifiers as students: of a teacher, by the detectors' losses, and of themselves."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from detkd.config import ClassifierConfig, SelfTeachConfig, TeachConfig, TermConfig
from detkd.distill.cache import MapCache
from detkd.distill.classifier_distiller import ClassifierDistiller, build_classifier_distiller
from detkd.distill.self_distiller import SelfDistiller
from detkd.errors import ConfigError
from detkd.models.classifier import build_classifier

CLASSES = ("ant", "bee", "cat", "dog")
EXITS = ["c2", "c3", "c4"]
TERMS = [
    TermConfig("kl", ["logits"], 2.0, {"temperature": 4.0}),
    TermConfig("cosine", ["logits", "pooled"], 1.0),
    TermConfig("dkd", ["logits"], options={"temperature": 2.0}),
    TermConfig("dist", ["logits"]),
    TermConfig("hint", ["pooled", "c4"]),
    TermConfig("hint", ["c3"], 0.5, {"mask": "near_objects"}),
    TermConfig("attention", ["c2", "c3"]),
    TermConfig("pkd", ["c4"]),
    TermConfig("fgd", ["c4"], 0.1),
]


def network(backbone="shallow_x0.5", seed=0, classes=CLASSES, size=64, **changes):
    torch.manual_seed(seed)
    return build_classifier(ClassifierConfig(backbone, **changes), classes, size)


@pytest.fixture
def pair():
    """A small student, and a wider teacher whose statistics are of real activations."""
    teacher = network("shallow_x1", seed=1).train()
    with torch.no_grad():
        for _ in range(3):
            teacher.read(torch.randn(4, 3, 64, 64))
    return network(), teacher.eval()


@pytest.fixture
def batch():
    torch.manual_seed(2)
    images = [torch.rand(3, 64, 64) for _ in range(4)]
    return images, [{"label": torch.tensor(at)} for at in (0, 1, 3, 3)]


def test_its_losses_are_the_label_s_and_one_for_each_term_and_feature(pair, batch):
    distiller = ClassifierDistiller(*pair, TERMS).train()
    losses = distiller(*batch)
    assert set(losses) == {
        "loss_label", "kl@logits", "cosine@logits", "cosine@pooled", "dkd@logits", "dist@logits",
        "hint@pooled", "hint@c4", "hint#2@c3", "attention@c2", "attention@c3", "pkd@c4", "fgd@c4",
    }  # fmt: skip
    assert all(loss.ndim == 0 and torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is None for p in pair[1].parameters())
    assert all(p.grad is not None for p in pair[0].parameters())


def test_vgg16_teaches_mobilenet_v2_whose_features_are_wider():
    torch.manual_seed(0)
    images = [torch.rand(3, 48, 48) for _ in range(2)]
    targets = [{"label": torch.tensor(at)} for at in (0, 1)]
    student, teacher = network("mobilenet_v2", size=48), network("vgg16", size=48).eval()
    terms = [
        TermConfig("kl", ["logits"], 1.0, {"temperature": 4.0}),
        TermConfig("cosine", ["pooled"], 1.0),
    ]
    distiller = ClassifierDistiller(student, teacher, terms).train()
    losses = distiller(images, targets)
    sum(losses.values()).backward()
    assert set(losses) == {"loss_label", "kl@logits", "cosine@pooled"}
    (weight,) = (p for n, p in distiller.named_parameters() if "adapters" in n and p.ndim == 4)
    assert weight.shape == (512, 1280, 1, 1) and weight.grad.any()
    assert all(p.grad is not None for p in student.parameters())


def test_the_sum_of_label_kl_and_cosine_by_hand(pair, batch):
    student, teacher = pair
    student.train()
    terms = [
        TermConfig("kl", ["logits"], 0.7, {"temperature": 4.0}),
        TermConfig("cosine", ["logits"], 0.3),
    ]
    distiller = ClassifierDistiller(student, teacher, terms)
    distiller.train()
    losses = distiller(*batch)
    x = torch.stack(batch[0])
    mean, std = student.mean, student.std
    z = copy.deepcopy(student).read((x - mean) / std)["logits"]
    t = teacher.read((x - mean) / std)["logits"]
    labels = torch.tensor([0, 1, 3, 3])
    assert torch.allclose(losses["loss_label"], F.cross_entropy(z, labels))
    p = (t / 4).softmax(1)
    divergence = (p * (p.log() - (z / 4).log_softmax(1))).sum(1).mean()
    assert torch.allclose(losses["kl@logits"], 0.7 * 16 * divergence, rtol=1e-4)
    cosine = (z * t).sum(1) / (z.norm(dim=1) * t.norm(dim=1))
    assert torch.allclose(losses["cosine@logits"], 0.3 * (1 - cosine).mean(), rtol=1e-4)


def test_pooled_features_of_other_widths_are_projected(pair, batch):
    distiller = ClassifierDistiller(*pair, [TermConfig("cosine", ["pooled"])])
    project = distiller.terms[0].adapters["pooled"].project
    assert (project.in_channels, project.out_channels) == (48, 96)
    assert not any("terms" in key for key in distiller.network.state_dict())


def test_a_student_equal_to_its_teacher_has_nothing_to_learn(batch):
    teacher = network(seed=1).eval()
    distiller = ClassifierDistiller(copy.deepcopy(teacher), teacher, TERMS[:4])
    distiller.train()
    distiller.student.eval()  # the same statistics
    losses = distiller(*batch)
    for name in losses.keys() - {"loss_label"}:
        assert float(losses[name].detach()) == pytest.approx(0, abs=1e-5)


def test_dkd_takes_the_teachers_choice_for_mixed_images(pair, batch):
    images, targets = batch
    distiller = ClassifierDistiller(*pair, [TermConfig("dkd", ["logits"])])
    chosen = distiller.teacher.eval()(images)
    own = [{"label": each["logits"].argmax()} for each in chosen]
    mixed = [{**target, "probabilities": torch.full((4,), 0.25)} for target in targets]
    found = []
    for each in (own, mixed):
        distiller.train().student.eval()
        found.append(float(distiller(images, each)["dkd@logits"].detach()))
        distiller.student.training = True
    assert found[0] == pytest.approx(found[1])


@pytest.mark.parametrize("name", ["cwd", "attention", "nst"])
def test_one_cell_has_no_pattern_to_compare(pair, name):
    with pytest.raises(ConfigError, match=f"'{name}' compares how cells differ, and 'pooled' is"):
        ClassifierDistiller(*pair, [TermConfig(name, ["pooled"])])


def test_features_that_a_classifier_has_not_are_refused_with_the_list(pair):
    with pytest.raises(ConfigError, match=r"no feature 'p3' in the student .* pooled \(48 ch"):
        ClassifierDistiller(*pair, [TermConfig("pkd", ["p3"])])
    with pytest.raises(ConfigError, match="'kl' compares logits, not 'c3'"):
        ClassifierDistiller(*pair, [TermConfig("kl", ["c3"])])
    with pytest.raises(ConfigError, match=r"no feature 'roi\.logits'"):
        ClassifierDistiller(*pair, [TermConfig("kl", ["roi.logits"])])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"classes": ("ant", "bee", "cat", "elk")}, "only one has 'dog'"),
        ({"classes": CLASSES[::-1]}, "their order differs"),
        ({"size": 96}, "set image_size: 64"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(pair, changes, said):
    with pytest.raises(ConfigError, match=said):
        build_classifier_distiller(network(**changes), pair[1], TeachConfig("t.pt"))


def test_a_teacher_that_would_say_nothing_is_refused(pair):
    with pytest.raises(ConfigError, match="names no term, so that the teacher says nothing"):
        build_classifier_distiller(*pair, TeachConfig("t.pt", []))


def test_the_state_leaves_the_teacher_out_and_comes_back_whole(pair, batch):
    distiller = ClassifierDistiller(*pair, TERMS, steps=5).train()
    distiller(*batch)
    state = copy.deepcopy(distiller.state_dict())
    assert not any(key.startswith("teacher") for key in state)
    other = ClassifierDistiller(network(seed=7), pair[1], TERMS, steps=5)
    other.load_state_dict(state)
    assert int(other.step) == 1
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in state.items())


@pytest.mark.parametrize("at", [["logits", "pooled"], ["logits", "c3"]])
def test_what_is_kept_of_the_teacher_is_exact_and_the_teacher_rests(pair, batch, tmp_path, at):
    def cached(folder, hold):
        return MapCache(folder, pair[1], at, exact=True, hold=hold)

    terms = [TermConfig("kl", ["logits"]), TermConfig("hint", [at[1]])]
    torch.manual_seed(4)
    plain = ClassifierDistiller(copy.deepcopy(pair[0]), pair[1], terms)
    found = plain.train()(*batch)
    cache = cached(tmp_path, hold=at[1] == "pooled")
    plain.student.load_state_dict(pair[0].state_dict())
    plain.cache = cache
    plain(*batch)
    cache.unchecked = 0
    ran = []
    pair[1].backbone.register_forward_hook(lambda *_: ran.append(1))
    for each in (cache, cached(tmp_path, hold=False)):
        each.unchecked = 0
        plain.student.load_state_dict(pair[0].state_dict())
        plain.cache = each
        again = plain(*batch)
        assert all(torch.equal(found[name], again[name]) for name in found)
    assert not ran


def test_a_marked_view_is_kept_by_its_mark(pair, batch, tmp_path):
    images, targets = batch
    marked = [{**t, "view": torch.tensor([at, 7])} for at, t in enumerate(targets)]
    cache = MapCache(tmp_path, pair[1], ["logits"], exact=True)
    distiller = ClassifierDistiller(*pair, [TermConfig("kl", ["logits"])], cache=cache).train()
    first = distiller(images, marked)["kl@logits"]
    assert len(list(cache.folder.iterdir())) == 4
    cache.unchecked = 0
    distiller.student.load_state_dict(pair[0].state_dict())
    ran = []
    pair[1].backbone.register_forward_hook(lambda *_: ran.append(1))
    distiller(images, marked)
    assert not ran
    distiller(images, targets)  # pixels that nobody marked are looked at
    assert ran
    assert len(list(cache.folder.iterdir())) == 8
    assert math.isfinite(float(first.detach()))


def test_another_normalisation_of_the_teacher_is_its_own(pair, batch):
    student, teacher = pair
    teacher.mean = teacher.mean + 0.1
    distiller = ClassifierDistiller(student, teacher, [TermConfig("kl", ["logits"])]).train()
    seen = []
    for network in pair:
        network.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    distiller(*batch)
    shift = (seen[0] - seen[1]) * teacher.std
    assert torch.allclose(shift, torch.full_like(shift, 0.1), atol=1e-5)


def test_views_that_never_come_again_are_not_kept(pair, tmp_path):
    teach = TeachConfig("t.pt", TERMS[:1], cache=True, cache_folder=str(tmp_path))
    with pytest.raises(ConfigError, match="never shows the same view twice"):
        build_classifier_distiller(*pair, teach, views=None)
    assert build_classifier_distiller(*pair, teach, images=9, views=8).cache.held == {}


def test_byots_losses_by_hand(batch):
    whole = network(exits=EXITS).train()
    config = SelfTeachConfig()
    losses = SelfDistiller(whole, config).train()(*batch)
    said = copy.deepcopy(whole).read(whole.batch(batch[0]))
    labels = torch.tensor([0, 1, 3, 3])
    assert torch.allclose(losses["loss_label"], F.cross_entropy(said["logits"], labels))
    for name in EXITS:
        own = said[f"{name}.logits"]
        assert torch.allclose(
            losses[f"loss_label@{name}"], 0.7 * F.cross_entropy(own, labels), rtol=1e-4
        )
        p = (said["logits"] / 3).softmax(1)
        divergence = (p * (p.log() - (own / 3).log_softmax(1))).sum(1).mean()
        assert torch.allclose(losses[f"kl@{name}"], 0.3 * divergence, rtol=1e-3, atol=1e-7)
        distance = ((said[f"{name}.features"] - said["c5"]) ** 2).mean()
        assert torch.allclose(losses[f"hint@{name}"], 0.03 * distance, rtol=1e-4)
    scaled = SelfDistiller(whole, SelfTeachConfig(scale_by_temperature=True)).train()(*batch)
    for name in EXITS:
        assert torch.allclose(scaled[f"kl@{name}"], 9 * losses[f"kl@{name}"], rtol=1e-2, atol=1e-6)


def test_the_deepest_exit_is_taught_by_the_label_alone(batch):
    whole = network(exits=EXITS).train()
    losses = SelfDistiller(whole, SelfTeachConfig()).train()(*batch)
    lessons = sum(loss for name, loss in losses.items() if name.startswith(("kl", "hint")))
    lessons.backward()
    assert all(p.grad is None for p in whole.head.parameters())
    assert all(p.grad is None for p in whole.backbone.stages["c5"].parameters())
    assert any(p.grad is not None for p in whole.backbone.stages["c2"].parameters())


def test_without_alpha_and_lambda_the_exits_learn_from_the_label_alone(batch):
    whole = network(exits=["c3"]).train()
    losses = SelfDistiller(whole, SelfTeachConfig(alpha=0.0, hint=0.0)).train()(*batch)
    assert float(losses["kl@c3"].detach()) == float(losses["hint@c3"].detach()) == 0
    assert math.isfinite(float(losses["loss_label@c3"].detach()))


def test_exits_that_are_not_there_cannot_be_taught():
    with pytest.raises(ConfigError, match="there is no exit to be taught"):
        SelfDistiller(network(), SelfTeachConfig())
