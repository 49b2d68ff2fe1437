import pytest
import torch
from safetensors.torch import save_file
from torchvision import models
from torchvision.ops import FrozenBatchNorm2d
from trained import moved

from detkd.errors import CheckpointError, ConfigError
from detkd.models.backbones import build_backbone, published_network

NAMES = [
    "resnet18",
    "resnet34",
    "vgg11",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "timm/resnet18",
    "timm/tf_efficientnet_lite0",
    "shallow_x1",
    "shallow_x0.5_d1",
    "shallow_x2_d3",
    "resnet18@c3",
    "shallow_x1@c4",
    "timm/resnet18@c4",
]


@pytest.mark.parametrize("name", NAMES)
def test_features_are_what_the_backbone_says(name):
    backbone = build_backbone(name).eval()
    with torch.no_grad():
        out = backbone(torch.zeros(2, 3, 64, 96))
    assert list(out) == list(backbone.features)
    for key, feature in backbone.features.items():
        size = (2, feature.channels, 64 // feature.stride, 96 // feature.stride)
        assert out[key].shape == size, key
        assert feature.stride == 2 ** int(key[1])


@pytest.mark.parametrize("name", ["vgg11", "vgg16_plain"])
def test_a_vgg_without_its_head_is_torchvisions(name):
    whole = models.get_model({"vgg11": "vgg11_bn", "vgg16_plain": "vgg16"}[name])
    ours, theirs = published_network(name, None, ("classifier.",)), whole.features.state_dict()
    assert [f"features.{key}" for key in theirs] == list(ours.state_dict())
    ours.load_state_dict({f"features.{key}": value for key, value in theirs.items()})
    started = published_network(name, None, ("classifier.",)).features
    for key, value in theirs.items():
        own = started.state_dict()[key]
        assert own.shape == value.shape
        if value.ndim == 4:  # drawn anew, by the same rule
            assert float(own.std()) == pytest.approx(float(value.std()), rel=0.1)
        else:
            assert torch.equal(own, value)


@pytest.mark.parametrize("name", ["shallow_x1", "shallow_x2", "shallow_x1_d3"])
def test_shallow_backbones_have_ten_to_a_hundred_thousand_parameters(name):
    count = sum(p.numel() for p in build_backbone(name).parameters())
    assert 10_000 <= count <= 100_000


def test_depth_and_width_grow_the_shallow_backbone():
    def size(name):
        return sum(p.numel() for p in build_backbone(name).parameters())

    assert size("shallow_x0.5") < size("shallow_x1") < size("shallow_x1_d3") < size("shallow_x2_d3")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet19", "no 'resnet19'"),
        ("resnet18@c7", "no stage 'c7'"),
        ("timm/resnet18_oops", "timm has no 'resnet18_oops'"),
        ("timm/sequencer2d_s", "has no maps of strides 4, 8, 16 or 32 px, but of 7, 14, 14;"),
    ],
)
def test_an_unknown_name_is_refused_with_what_there_is(name, said):
    with pytest.raises(ConfigError, match=said):
        build_backbone(name)


def test_shallow_backbones_have_no_imagenet_weights():
    with pytest.raises(ConfigError, match="no ImageNet weights of 'shallow_x1'"):
        build_backbone("shallow_x1", weights="imagenet")


def test_weights_of_a_local_file_are_loaded(tmp_path):
    from torchvision.models import mobilenet_v2

    torch.manual_seed(1)
    net = mobilenet_v2(weights=None)
    state = {k: v for k, v in net.state_dict().items() if not k.startswith("classifier")}
    save_file(state, tmp_path / "w.safetensors")
    backbone = build_backbone("mobilenet_v2", weights=str(tmp_path / "w.safetensors"))
    assert torch.equal(backbone.stages["stem2"][0][0].weight, net.features[0][0].weight)
    assert torch.equal(backbone.stages["c5"][-1].conv[2].weight, net.features[17].conv[2].weight)


@pytest.mark.parametrize("name", ["shallow_x0.5_d1", "resnet18@c3", "timm/tf_efficientnet_lite0"])
def test_a_backbone_begins_as_that_of_a_checkpoint(tmp_path, name):
    torch.manual_seed(0)
    trained = build_backbone(name)
    state = trained.state_dict()
    other = build_backbone(name).state_dict()
    assert any(not torch.equal(other[key], value) for key, value in state.items())
    for prefix in ("backbone.body.", "backbone."):  # a detector's, and a classifier's
        weights = {f"{prefix}{key}": value for key, value in state.items()}
        weights |= {"head.weight": torch.zeros(1), "backbone.neck.x": torch.zeros(1)}
        checkpoint = {
            "version": "1",
            "config": {"model": {"backbone": name}},
            "classes": [],
            "weights": weights,
        }
        torch.save(checkpoint, tmp_path / "best.pt")
        begun = build_backbone(name, weights=str(tmp_path / "best.pt")).state_dict()
        assert all(torch.equal(begun[key], value) for key, value in state.items())
    torch.save({**checkpoint, "config": None}, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match="is it the file of another network"):
        build_backbone("shallow_x2", weights=str(tmp_path / "odd.pt"))
    with pytest.raises(CheckpointError, match=f"it is of '{name}': name weights"):
        build_backbone("shallow_x2", weights=str(tmp_path / "best.pt"))


def test_weights_that_lack_a_layer_or_have_another_shape_are_refused(tmp_path):
    from torchvision.models import resnet18

    state = resnet18(weights=None).state_dict()
    lacking = {k: v for k, v in state.items() if k != "layer3.0.conv1.weight"}
    save_file(lacking, tmp_path / "lacking.safetensors")
    with pytest.raises(CheckpointError, match=r"the first is 'layer3.0.conv1.weight'"):
        build_backbone("resnet18", weights=str(tmp_path / "lacking.safetensors"))
    save_file(state | {"conv1.weight": torch.zeros(1)}, tmp_path / "shape.safetensors")
    with pytest.raises(CheckpointError, match=r"'conv1.weight' has shape \[1\]"):
        build_backbone("resnet18", weights=str(tmp_path / "shape.safetensors"))


def test_a_file_with_code_in_it_is_never_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"conv1.weight": Bomb()}, tmp_path / "bomb.pt")
    with pytest.raises(CheckpointError, match="it could run code"):
        build_backbone("resnet18", weights=str(tmp_path / "bomb.pt"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"\x80\x04garbage", b"{}"])
def test_garbage_is_refused_in_a_sentence(tmp_path, content):
    for name in ("x.pt", "x.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=name):
            build_backbone("resnet18", weights=str(tmp_path / name))


def test_frozen_norm_keeps_statistics_and_scales():
    backbone = build_backbone("resnet18", frozen_norm=True).train()
    assert any(isinstance(m, FrozenBatchNorm2d) for m in backbone.modules())
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in backbone.modules())
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    backbone(torch.rand(2, 3, 64, 64))
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())


def test_frozen_norm_computes_what_the_trained_norm_would():
    torch.manual_seed(0)
    trained = build_backbone("resnet18").train()
    trained(torch.rand(4, 3, 64, 64))
    frozen = build_backbone("resnet18", frozen_norm=True)
    frozen.load_state_dict(
        {k: v for k, v in trained.state_dict().items() if "num_batches" not in k}
    )
    x = torch.rand(1, 3, 64, 64)
    assert torch.allclose(trained.eval()(x)["c5"], frozen.train()(x)["c5"], atol=1e-4)


def test_frozen_norms_of_timm_keep_their_activations():
    torch.manual_seed(0)
    name = "timm/tf_efficientnet_lite0"
    trained = build_backbone(name).eval()
    for norm in trained.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            for values in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
                torch.nn.init.uniform_(values, 0.5, 2)
    frozen = build_backbone(name, frozen_norm=True)
    state = {k: v for k, v in trained.state_dict().items() if "num_batches" not in k}
    frozen.load_state_dict(state)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        theirs, ours = trained(images), frozen.train()(images)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in frozen.modules())
    assert not any(isinstance(m, FrozenBatchNorm2d) for m in frozen.modules())  # it has none
    for stage, was in theirs.items():
        assert torch.allclose(ours[stage], was, rtol=1e-4, atol=1e-4 * float(was.abs().max()))


def test_frozen_stages_are_trained_in_no_way():
    backbone = build_backbone("resnet18", frozen_stages=2).train()
    frozen = ("stages.stem", "stages.c2", "stages.c3")
    for name, parameter in backbone.named_parameters():
        assert parameter.requires_grad != name.startswith(frozen), name
    before = {k: v.clone() for k, v in backbone.state_dict().items() if k.startswith(frozen)}
    backbone(torch.rand(2, 3, 64, 64))
    after = backbone.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())
    with pytest.raises(ConfigError, match="more than the 4 stages"):
        build_backbone("resnet18", frozen_stages=5)


def test_a_stage_of_timm_ends_where_its_layers_end():
    layers = build_backbone("timm/resnet18").layers
    assert layers["c2"] == ["conv1", "bn1", "act1", "maxpool", "layer1.0", "layer1.1"]
    assert [layers[f"c{at}"] for at in (3, 4, 5)] == [
        [f"layer{at}.0", f"layer{at}.1"] for at in (2, 3, 4)
    ]


@pytest.mark.parametrize("frozen_norm", [False, True])
def test_frozen_stages_of_timm_are_trained_in_no_way(frozen_norm):
    name = "timm/test_efficientnet"
    backbone = build_backbone(name, frozen_stages=2, frozen_norm=frozen_norm).train()
    frozen = [f"stages.net.{layer}" for stage in ("c2", "c3") for layer in backbone.layers[stage]]
    assert frozen[:2] == ["stages.net.conv_stem", "stages.net.bn1"]
    learning = [name for name, p in backbone.named_parameters() if p.requires_grad]
    assert learning
    assert not [name for name in learning if name.startswith(tuple(f"{f}." for f in frozen))]
    assert sum(p.numel() for p in backbone.until("c3").parameters() if p.requires_grad) == 0
    before = {k: v.clone() for k, v in backbone.state_dict().items() if k.startswith(tuple(frozen))}
    backbone(torch.rand(2, 3, 64, 64))
    after = backbone.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())


@pytest.mark.parametrize("name", ["timm/resnet18", "timm/test_efficientnet", "resnet18"])
def test_the_backbone_until_a_stage_gives_the_same_and_has_nothing_of_the_rest(name):
    backbone = moved(build_backbone(name, frozen_stages=1))
    cut = backbone.until("c3")
    image = torch.rand(1, 3, 64, 64)
    found, whole = cut.eval()(image), backbone.eval()(image)
    assert list(found) == list(cut.features) == ["c2", "c3"]
    assert all(torch.equal(found[key], whole[key]) for key in found)
    weights, rest = set(cut.parameters()), set(backbone.parameters())
    assert weights < rest
    norms = [m for m in cut.train().modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {norm.training for norm in norms} == {False, True}  # the first stage is still frozen


def test_features_of_a_network_whose_channels_are_last_are_turned():
    backbone = build_backbone("timm/test_mambaout").eval()
    assert backbone.whole
    found = backbone(torch.rand(1, 3, 64, 96))
    for key, feature in backbone.features.items():
        size = (1, feature.channels, 64 // feature.stride, 96 // feature.stride)
        assert found[key].shape == size
