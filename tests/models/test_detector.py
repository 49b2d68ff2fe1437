import copy

import pytest
import torch

from detkd.config import ModelConfig
from detkd.errors import ConfigError
from detkd.models.detector import build_detector


def model(**changes):
    sizes = {"anchor_sizes": [[16.0], [32.0], [64.0]], "levels": ["p3", "p4", "p5"]}
    return ModelConfig(**{"neck_channels": 32, "head_width": 64, **sizes, **changes})


def batch():
    images = [torch.rand(3, 96, 128), torch.rand(3, 128, 100)]
    boxes = torch.tensor([[10.0, 10, 50, 60], [60, 20, 95, 90]])
    target = {"boxes": boxes, "labels": torch.tensor([1, 2])}
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    return images, [target, nothing]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"neck": "fpn", "rpn": "full"},
        {"neck": "none", "levels": ["p4"], "anchor_sizes": [[32.0, 64.0]]},
        {"backbone": "resnet18@c3", "levels": ["p3", "p4", "p5"]},
        {"levels": ["p4", "p5", "p6"], "backbone": "mobilenet_v3_small"},
        {"levels": ["p2"], "anchor_sizes": [[16.0, 32.0, 64.0]]},
        {"neck": "cem", "roi_features": "thin"},
        {"neck": "cem", "levels": ["p4"], "anchor_sizes": [[32.0]], "roi_features": "psroi"},
        {"roi_features": "psroi", "roi_channels": 5, "roi_size": 5},
        {"classifier": "sigmoid"},
    ],
)
def test_it_keeps_torchvisions_contract(changes):
    torch.manual_seed(0)
    detector = build_detector(model(**changes), ["a", "b"], 128)
    losses = detector(*batch())
    assert set(losses) == {
        "loss_classifier",
        "loss_box_reg",
        "loss_objectness",
        "loss_rpn_box_reg",
    }
    sum(losses.values()).backward()
    trained = [p for p in detector.parameters() if p.requires_grad]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained)
    detections = detector.eval()(batch()[0])
    assert [set(found) for found in detections] == [{"boxes", "labels", "scores"}] * 2


def test_features_name_stages_and_levels():
    detector = build_detector(model(), ["a"], 128)
    said = {name: str(feature) for name, feature in detector.features.items()}
    assert said["c3"] == "24 ch, stride 8"
    assert said["p5"] == "32 ch, stride 32"


def test_an_image_of_the_right_size_is_not_resized_and_another_is():
    detector = build_detector(model(), ["a"], 128)
    right = torch.rand(3, 96, 128)
    assert detector.transform.resize(right, None)[0] is right
    assert detector.transform.resize(torch.rand(3, 300, 600), None)[0].shape == (3, 64, 128)


def test_the_neck_is_told_what_is_padding():
    detector = build_detector(model(neck="cem"), ["a"], 128)
    told = []
    detector.backbone.neck.register_forward_pre_hook(lambda _, said: told.append(said[1]))
    images = [torch.rand(3, 96, 128), torch.rand(3, 256, 128)]
    detector.eval()(images)
    assert told == [[(96, 128), (128, 64)]]


def test_a_frame_among_others_of_other_shapes_is_seen_as_alone():
    torch.manual_seed(0)
    detector = build_detector(model(neck="cem", score_threshold=0.0), ["a"], 128).eval()
    body = detector.backbone.body
    # Stages that only average, so that no convolution carries padding into the image.
    body.forward = (
        lambda x: {  # type: ignore[method-assign]
            name: torch.nn.functional.avg_pool2d(x, f.stride)[:, :1].expand(-1, f.channels, -1, -1)
            for name, f in body.features.items()
        }
    )
    small, tall = torch.rand(3, 64, 128), torch.rand(3, 128, 96)
    alone, among = (
        detector.levels_of(detector.transform(images)[0]) for images in ([small], [tall, small])
    )
    for level, maps in alone.items():
        rows = maps.shape[-2]
        assert torch.allclose(maps[0], among[level][1, :, :rows], atol=1e-6)


@pytest.mark.parametrize("boxes", [[[5.0, 5.0, 5.0, 20.0]], [[9.0, 9.0, 2.0, 20.0]], []])
def test_boxes_that_are_none_are_refused(boxes):
    images, targets = batch()
    targets[0]["boxes"] = torch.tensor(boxes)
    targets[0]["labels"] = torch.ones(len(boxes), dtype=torch.int64)
    with pytest.raises(ValueError, match="target 0 has boxes that are none"):
        build_detector(model(), ["a"], 128)(images, targets)


def test_training_without_targets_is_refused():
    with pytest.raises(ValueError, match="needs targets"):
        build_detector(model(), ["a"], 128)([torch.rand(3, 96, 128)])


def test_boxes_come_back_in_the_frame_of_the_given_image():
    torch.manual_seed(0)
    detector = build_detector(model(score_threshold=0.0), ["a"], 128).eval()
    boxes = detector([torch.rand(3, 480, 640)])[0]["boxes"]
    assert len(boxes)
    assert boxes[:, 2].max() > 160


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"anchor_sizes": [[16.0]]}, "1 lists for 3 levels"),
        ({"anchor_sizes": [[16.0], [32.0], [64.0, 90.0]]}, "the same number of sizes"),
        ({"levels": ["p3", "p5"]}, "do not follow each other"),
        ({"levels": ["q3"]}, "are not levels"),
        ({"neck": "none"}, "has one level"),
        ({"neck": "cem", "backbone": "resnet18@c4", "levels": ["p5"]}, "needs stage c5"),
        ({"backbone": "shallow_x1@c3", "levels": ["p4", "p5", "p6"]}, "needs stage c4"),
        ({"anchor_sizes": "fit"}, "must be measured"),
        ({"classifier": "softmin"}, "'softmin' is not softmax or sigmoid"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        build_detector(model(**changes), ["a"], 128)


def test_the_light_proposal_head_has_fewer_parameters():
    def size(kind):
        head = build_detector(model(rpn=kind), ["a"], 128).rpn.head
        return sum(p.numel() for p in head.parameters())

    assert size("light") < size("full") / 3


@pytest.mark.parametrize("size", [(12, 128), (128, 9)])
def test_first_frame_does_not_decide_the_scales_of_roi_align(size):
    """torchvision guesses the strides from the first frame, and of a flat one guesses wrong."""
    torch.manual_seed(0)
    detector = build_detector(model(), ["a", "b"], 128).eval()
    fresh = copy.deepcopy(detector)
    frame = torch.rand(3, 128, 128)
    with torch.no_grad():
        fresh([torch.rand(3, *size)])
        expected, found = detector([frame])[0], fresh([frame])[0]
    assert fresh.roi_heads.box_roi_pool.scales == [1 / 8, 1 / 16, 1 / 32]
    assert torch.equal(found["scores"], expected["scores"])


@pytest.mark.parametrize("image_size", [96, 224])
def test_a_backbone_of_one_size_is_none_for_frames_of_many_shapes(image_size):
    config = model(backbone="timm/levit_128s", neck="none", levels=["p4"], anchor_sizes=[[32.0]])
    with pytest.raises(ConfigError, match=r"@c4' takes no images of (96 x 96|224 x 96) px, and"):
        build_detector(config, ["a"], image_size)


def test_a_backbone_that_needs_some_pixels_serves_frames_of_usual_shapes():
    config = model(backbone="timm/inception_v3", neck="none", levels=["p4"], anchor_sizes=[[32.0]])
    detector = build_detector(config, ["a"], 320).eval()
    assert len(detector([torch.rand(3, 240, 320), torch.rand(3, 320, 200)])) == 2
