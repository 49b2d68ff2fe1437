"""A classifier's scores, calibration, intervals, thresholds and exits, against numbers by hand."""

import json
import math

import numpy as np
import pytest

from detkd.errors import CheckpointError, DataError
from detkd.evaluation.calibration import calibration_error, fit_temperature, reliability, scaled
from detkd.evaluation.class_intervals import (
    Said,
    bootstrap_means,
    bootstrap_scores,
    compare_means,
    compare_paired,
    drawn_scores,
    exchanged_scores,
    mcnemar,
)
from detkd.evaluation.class_judge import (
    ClassPredictions,
    aligned,
    judge_classes,
    read_predictions,
)
from detkd.evaluation.class_plots import plot_classes
from detkd.evaluation.classes import class_scores, confusion, per_class, softmax
from detkd.evaluation.decisions import choose_decisions, decisions_in
from detkd.evaluation.early import early_table, early_threshold, stops
from detkd.evaluation.unknown import (
    at_threshold,
    coverage_curve,
    of_foreign,
    unknown_threshold,
)


def said(*classes, k=3, sure=0.8):
    """Probabilities that name these classes."""
    rows = np.full((len(classes), k), (1 - sure) / (k - 1))
    rows[np.arange(len(classes)), classes] = sure
    return rows


LABELS = np.array([0, 0, 0, 0, 1, 1])
SAID = said(0, 0, 0, 1, 1, 0)  # class 2 does not occur


def test_scores_by_hand():
    scores = class_scores(SAID, LABELS)
    assert scores["top1"] == pytest.approx(4 / 6)
    assert scores["balanced_accuracy"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    # F1: class 0 has 3 hits of 4 said and 4 true, class 1 has 1 of 2 and 2.
    assert scores["macro_f1"] == pytest.approx((6 / 8 + 2 / 4) / 2)
    assert scores["top5"] is None
    assert set(class_scores(SAID[:0], LABELS[:0]).values()) == {None}


def test_top5_counts_the_five_most_probable():
    rows = np.tile(np.arange(7, 0, -1) / 28, (2, 1))
    assert class_scores(rows, np.array([4, 5]))["top5"] == 0.5


def test_each_class_and_what_it_is_mistaken_for():
    table = per_class(SAID, LABELS, ["a", "b", "c"])
    assert table["a"] == {
        "precision": 0.75,
        "recall": 0.75,
        "f1": 0.75,
        "truths": 4,
        "predicted": 4,
    }
    assert table["c"] == {
        "precision": None,
        "recall": None,
        "f1": None,
        "truths": 0,
        "predicted": 0,
    }
    assert confusion(SAID, LABELS).tolist() == [[3, 1, 0], [1, 1, 0], [0, 0, 0]]


def test_calibration_error_by_hand():
    rows = np.concatenate([said(0, 0, 0, 0, sure=0.9), said(0, 0, sure=0.6)])
    # At 0.9 three of four are right, at 0.6 both: 4/6 · 0.15 + 2/6 · 0.4.
    labels = np.array([0, 0, 0, 1, 0, 0])
    assert calibration_error(rows, labels) == pytest.approx(4 / 6 * 0.15 + 2 / 6 * 0.4)
    (low, _, two), (high, right, four) = reliability(rows, labels)
    assert (two, four, right) == (2, 4, 0.75)
    assert (low, high) == (pytest.approx(0.6), pytest.approx(0.9))


def test_the_temperature_of_two_classes_by_hand():
    # Logit 4 and three of four right: z / T = log 3 fits best.
    logits = np.tile([4.0, 0.0], (4, 1))
    labels = np.array([0, 0, 0, 1])
    temperature = fit_temperature(logits, labels)
    assert temperature == pytest.approx(4 / math.log(3), rel=1e-3)
    mended = scaled(logits, temperature)
    assert calibration_error(mended, labels) == pytest.approx(0, abs=1e-3)
    assert (mended.argmax(1) == logits.argmax(1)).all()


def test_intervals_draw_whole_samples():
    pairs = bootstrap_scores(SAID, LABELS, list("aabbcc"), draws=200)
    alone = bootstrap_scores(SAID, LABELS, list("abcdef"), draws=200)
    assert (pairs["unit"], pairs["groups"]) == ("sample", 3)
    assert (alone["unit"], alone["groups"]) == ("image", 6)
    for found in (pairs, alone):
        assert found["top1"][0] < 4 / 6 < found["top1"][1]
    assert alone == bootstrap_scores(SAID, LABELS, list("abcdef"), draws=200)
    # Where all ten images of a sample are right or none is, four samples tell next to nothing; as
    # forty that stood alone they would tell much.
    labels = np.zeros(40, dtype=int)
    by_sample = said(*[0] * 20, *[1] * 20)
    samples = [f"s{at // 10}" for at in range(40)]
    assert bootstrap_scores(by_sample, labels, samples, draws=400)["top1"] == [0, 1]
    low, high = bootstrap_scores(by_sample, labels, list(map(str, range(40))), draws=400)["top1"]
    assert 0.2 < low < 0.5 < high < 0.8


def test_one_sample_tells_nothing_about_others():
    one = bootstrap_scores(SAID, LABELS, ["s"] * 6, draws=20)
    assert one["groups"] == 1
    assert [one[name] for name in ("top1", "balanced_accuracy", "macro_f1")] == [None] * 3
    labels = np.zeros(20, dtype=int)
    found = compare_paired(said(*[0] * 20), said(*[1] * 20), labels, ["s"] * 20, draws=100)
    assert found["top1"]["difference"] == 1
    assert found["top1"]["interval"] is None
    assert found["top1"]["p"] == 1
    assert found["right_alone"] == {"ours": 20, "theirs": 0, "mcnemar_p": None}


def test_drawn_and_exchanged_scores_are_those_of_the_images():
    random = np.random.default_rng(0)
    labels = random.integers(4, size=40)
    one, other = (random.dirichlet(np.ones(5), size=40) for _ in range(2))
    weights = random.integers(3, size=(6, 40))
    swapped = random.integers(2, size=(6, 40))
    drawn = drawn_scores(Said(one, labels), weights)
    mixed = exchanged_scores(Said(one, labels), Said(other, labels), swapped)
    for at in range(6):
        places = np.repeat(np.arange(40), weights[at])
        for found, probabilities, truth in (
            (drawn, one[places], labels[places]),
            (mixed, np.where(swapped[at][:, None], other, one), labels),
        ):
            scores = class_scores(probabilities, truth)
            for name in ("top1", "balanced_accuracy", "macro_f1"):
                assert found[name][at] == pytest.approx(scores[name])


def test_a_class_that_a_draw_lacks_is_left_out_of_its_means():
    labels = np.array([0, 0, 1, 2])
    called = said(0, 1, 1, 3, k=4)
    whole = drawn_scores(Said(called, labels), np.array([[1, 1, 1, 1]]))
    # F1 of the four is 2/3, 2/3, 0 and 0: of the last there is no image, and it was called.
    assert whole["macro_f1"] == pytest.approx(1 / 3)
    assert whole["macro_f1"][0] == pytest.approx(class_scores(called, labels)["macro_f1"])
    without = drawn_scores(Said(called, labels), np.array([[1, 1, 0, 0], [0, 0, 1, 1]]))
    # Class 1 was called in the first draw, and class 3 in the second, of which there never was one.
    assert without["macro_f1"] == pytest.approx([2 / 3, 1 / 3])
    assert without["balanced_accuracy"] == pytest.approx([1 / 2, 1 / 2])


def test_two_runs_on_the_same_images():
    labels = np.zeros(20, dtype=int)
    weak, strong = said(*[0] * 10, *[1] * 10), said(*[0] * 19, 1)
    alone = [str(at) for at in range(20)]
    found = compare_paired(strong, weak, labels, alone, draws=300)
    assert found["top1"]["difference"] == pytest.approx(9 / 20)
    assert found["top1"]["interval"][0] > 0
    # Exchanging the nine images that differ makes as large a difference twice in 512 times.
    assert 1 / 301 <= found["top1"]["p"] < 0.02
    assert found["right_alone"] == {
        "ours": 9, "theirs": 0, "mcnemar_p": pytest.approx(2 / 2**9)
    }  # fmt: skip
    same = compare_paired(weak, weak, labels, alone, draws=50)
    assert same["top1"]["difference"] == 0
    assert same["top1"]["p"] == same["right_alone"]["mcnemar_p"] == 1


def test_a_p_value_is_never_zero():
    labels = np.zeros(20, dtype=int)
    alone = [str(at) for at in range(20)]
    found = compare_paired(said(*[0] * 20), said(*[1] * 20), labels, alone, draws=100)
    assert found["top1"]["p"] == pytest.approx(1 / 101)


def test_means_of_seeds_are_compared_as_single_runs_are():
    random = np.random.default_rng(1)
    labels = random.integers(3, size=30)
    runs = [random.dirichlet(np.ones(3), size=30) for _ in range(3)]
    groups = [str(at // 3) for at in range(30)]
    single = compare_means(runs[:1], runs[1:2], labels, groups, draws=40)
    assert compare_means(runs[:1] * 2, runs[1:2], labels, groups, draws=40) == single
    both = compare_means(runs[:2], runs[2:], labels, groups, draws=40)
    tops = [class_scores(run, labels)["top1"] for run in runs]
    assert both["top1"]["value"] == pytest.approx((tops[0] + tops[1]) / 2)
    assert both["top1"]["other"] == pytest.approx(tops[2])
    mean = bootstrap_means(runs[:1] * 2, labels, groups, draws=40)
    assert mean == bootstrap_scores(runs[0], labels, groups, draws=40)


@pytest.mark.parametrize(
    ("only", "p"), [((0, 0), 1.0), ((1, 1), 1.0), ((0, 5), 2 / 32), ((1, 5), 14 / 64)]
)
def test_mcnemars_test_by_hand(only, p):
    assert mcnemar(*only) == pytest.approx(p)


def test_coverage_and_the_threshold_of_unknown():
    rows = np.concatenate(
        [said(0, sure=0.95), said(0, sure=0.9), said(0, sure=0.8), said(0, sure=0.7)]
    )
    labels = np.array([0, 0, 1, 0])
    curve = coverage_curve(rows, labels)
    assert [point["coverage"] for point in curve] == [0.25, 0.5, 0.75, 1.0]
    assert [point["accuracy"] for point in curve] == pytest.approx([1, 1, 2 / 3, 3 / 4])
    assert unknown_threshold(rows, labels, accuracy=0.75) == pytest.approx(0.7)
    assert unknown_threshold(rows, np.ones(4, int), accuracy=0.75) is None
    assert at_threshold(rows, labels, 0.8)["coverage"] == 0.75
    assert at_threshold(rows, labels, None) == {"threshold": None, "coverage": 0, "accuracy": None}


def test_a_share_of_right_ones_wants_as_many_images_as_can_show_it():
    sure = np.linspace(0.5, 0.99, 24)
    rows, labels = np.concatenate([said(0, sure=each) for each in sure]), np.zeros(24, int)
    labels[0] = 1
    assert unknown_threshold(rows, labels, accuracy=0.95) == pytest.approx(sure[0])  # 23 of 24
    labels[:5] = 1
    assert unknown_threshold(rows, labels, accuracy=0.95) == pytest.approx(sure[4])  # 19 of 20
    labels[5] = 1
    assert unknown_threshold(rows, labels, accuracy=0.95) is None  # 18 of 18 are too few
    assert unknown_threshold(rows, np.zeros(24, int), accuracy=1.0) is None  # no number shows it


def test_images_of_equal_confidence_are_accepted_together():
    curve = coverage_curve(said(0, 1, 0), np.array([0, 0, 0]))
    assert curve == [
        {"threshold": pytest.approx(0.8), "coverage": 1.0, "accuracy": pytest.approx(2 / 3)}
    ]


def test_images_of_other_classes_are_rejected_below_the_threshold():
    known, foreign = np.array([0.9, 0.8, 0.6]), np.array([0.7, 0.5, 0.95, 0.6])
    told = of_foreign(known, foreign, ["x", "x", "y", "x"], 0.65)
    assert (told["images"], told["rejected"]) == (4, 0.5)
    assert told["per_class"] == {
        "x": {"images": 3, "rejected": pytest.approx(2 / 3)},
        "y": {"images": 1, "rejected": 0.0},
    }
    # Of the 12 pairs, the foreign image is less sure in 2 + 3 + 0 + 2, and once as sure.
    assert told["auroc"] == pytest.approx(7.5 / 12)
    assert of_foreign(known, foreign, list("xxxx"), None)["rejected"] == 1


def exits(*rows):
    """Logits [N, E, 2] of images, of which each exit has (class, confidence)."""

    def logits(which, sure):
        return [math.log(sure), math.log(1 - sure)][:: 1 if which == 0 else -1]

    return np.array([[logits(*each) for each in row] for row in rows])


def test_stopping_early_by_hand():
    logits = exits(
        [(0, 0.9), (0, 0.99)],  # right at once
        [(1, 0.7), (0, 0.9)],  # wrong at first, less sure
        [(0, 0.8), (0, 0.9)],
        [(1, 0.6), (1, 0.9)],
    )
    labels = np.array([0, 0, 0, 1])
    assert stops(logits, 0.75).tolist() == [0, 1, 0, 1]
    assert early_threshold(logits, labels) == pytest.approx(0.8)
    assert early_threshold(logits, labels, loss=0.3) == pytest.approx(0.6)
    table = early_table(logits, labels, {"c2": 10, "last": 100}, 80, 0.8)
    assert table["early"]["top1"] == 1.0
    assert table["exits"]["c2"]["share"] == 0.5
    assert table["exits"]["c2"]["top1"] == 0.75
    assert table["flops"] == 55
    assert table["saved"] == pytest.approx(1 - 55 / 80)  # of the head without exits on the way


def test_where_no_exit_can_be_trusted_none_is_stopped_at():
    logits = exits([(1, 0.9), (0, 0.6)], [(0, 0.5), (0, 0.6)])
    labels = np.array([0, 0])
    threshold = early_threshold(logits, labels)
    assert threshold == float("inf")
    table = early_table(logits, labels, {"c2": 10, "last": 100}, 80, threshold)
    assert table["saved"] == -0.25  # exits that nobody stops at cost what they cost
    assert table["threshold"] is None


def test_decisions_are_chosen_once_and_come_back_from_a_checkpoint():
    logits = exits([(0, 0.9), (0, 0.99)], [(1, 0.7), (0, 0.9)], [(0, 0.8), (0, 0.9)])
    labels = np.array([0, 0, 0])
    chosen = choose_decisions(logits[:, -1], labels, logits, {"side": "val"})
    assert chosen.early == pytest.approx(0.8)
    assert chosen.unknown is None  # three images, all right, say nothing of 95 %
    assert chosen.early_unknown is None
    loose = choose_decisions(logits[:, -1], labels, logits, {"side": "val"}, accuracy=0.5)
    assert loose.unknown == scaled(logits[:, -1], loose.temperature).max(1).min()
    stop = np.stack([logits[0, 0], logits[1, 1], logits[2, 0]])
    assert loose.early_temperature == fit_temperature(stop, labels)
    assert loose.early_unknown == scaled(stop, loose.early_temperature).max(1).min()
    assert loose.of_early.temperature == loose.early_temperature
    assert loose.of_early.unknown == loose.early_unknown
    before = {name: value for name, value in vars(loose).items() if "early_" not in name}
    assert decisions_in({"decisions": before}, "x.pt").early_temperature is None
    assert choose_decisions(logits[:, -1], labels, None, {}).early is None
    assert decisions_in({"decisions": vars(chosen)}, "x.pt") == chosen
    assert decisions_in({}, "x.pt") is None
    for broken in (
        {"temperature": 0.0},
        {"early": float("nan")},
        {"unknown": "much"},
        {"early_temperature": 0.0},
    ):
        with pytest.raises(CheckpointError, match=r"x.pt: its temperature and thresholds"):
            decisions_in({"decisions": {**vars(chosen), **broken}}, "x.pt")
    with pytest.raises(CheckpointError, match="cannot be understood"):
        decisions_in({"decisions": {"temperature": 1.0}}, "x.pt")


@pytest.fixture
def predictions():
    random = np.random.default_rng(0)
    labels = random.integers(3, size=30)
    logits = random.normal(size=(30, 3)) + 2 * np.eye(3)[labels]
    files = tuple(f"{at}.png" for at in range(30))
    return ClassPredictions(("a", "b", "c"), files, tuple("xyz" * 10), labels, logits)


def test_predictions_come_back_from_their_file(predictions, tmp_path):
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps(predictions.as_dict()))
    again = read_predictions(path)
    assert again.files == predictions.files
    assert (again.labels == predictions.labels).all()
    assert np.allclose(again.logits, predictions.logits, atol=1e-5)
    path.write_text('{"classes": ["a"], "images": [{"file": "x", "logits": [1]}]}')
    with pytest.raises(DataError, match="holds no predictions of a classifier"):
        read_predictions(path)


def test_predictions_are_compared_image_by_image_in_any_order(predictions):
    order = np.arange(30)[::-1]
    turned = ClassPredictions(
        predictions.classes,
        tuple(predictions.files[at] for at in order),
        tuple(predictions.groups[at] for at in order),
        predictions.labels[order],
        predictions.logits[order],
    )
    assert np.allclose(aligned(predictions, turned, ("a", "b")), predictions.probabilities)
    other = ClassPredictions(
        predictions.classes,
        predictions.files,
        predictions.groups,
        (predictions.labels + 1) % 3,
        predictions.logits,
    )
    with pytest.raises(DataError, match="is not of the same images, labels and classes"):
        aligned(predictions, other, ("a", "b"))


def test_everything_in_one_document_and_pictures(predictions, tmp_path):
    from PIL import Image

    decisions = choose_decisions(predictions.logits, predictions.labels, None, {"side": "val"})
    metrics = judge_classes(predictions, decisions, bootstrap=10)
    json.dumps(metrics, allow_nan=False)
    assert set(metrics) == {
        "classes", "per_class", "confusion", "calibration", "unknown", "intervals"
    }  # fmt: skip
    for file in predictions.files:
        Image.new("RGB", (8, 6), (90, 90, 90)).save(tmp_path / file)
    files = [tmp_path / file for file in predictions.files]
    probabilities = softmax(predictions.logits)
    labels, classes = predictions.labels, predictions.classes
    plot_classes(probabilities, labels, classes, files, tmp_path / "plots", probabilities)
    names = {path.name for path in (tmp_path / "plots").iterdir()}
    assert names == {"confusion.png", "calibration.png", "worst_mistakes.png"}
