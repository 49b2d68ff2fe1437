"""Classifiers: their attention, compression, heads and exits, and what labels cost them."""

import math

import pytest
import torch
from torch import nn
from trained import moved

from detkd.cli.arguments import read_kind
from detkd.config import (
    ClassDataConfig,
    ClassifierConfig,
    ClassifierExperiment,
    LabelLossConfig,
)
from detkd.errors import CheckpointError, ConfigError
from detkd.models.attention import (
    CellGate,
    ChannelGate,
    EfficientChannelGate,
    HybridAttention,
    kernel_size,
)
from detkd.models.backbones import Feature, is_signed
from detkd.models.class_heads import Exit
from detkd.models.classifier import Classifier, build_classifier, cut_at, without_exits
from detkd.models.compression import Shuffle, compress
from detkd.models.costs import (
    WITH_EXITS,
    compressed_family,
    cost_table,
    exit_table,
    exits_markdown,
    table_markdown,
)
from detkd.models.early_exit import LAST, classify_early, each_exit, exit_flops
from detkd.models.label_loss import LabelLoss, label_probabilities
from detkd.shipped import shipped

CLASSES = ("ant", "bee", "cat")
BLOCKS = [ChannelGate, EfficientChannelGate, HybridAttention]
EXITS = ["c2", "c3", "c4"]


def build(backbone="shallow_x0.5", classes=CLASSES, size=64, **changes):
    torch.manual_seed(0)
    return build_classifier(ClassifierConfig(backbone, **changes), classes, size)


def read_config(name):
    config = ["--config", str(shipped("configs", f"{name}.yaml"))]
    return read_kind(ClassifierExperiment, "x", config, description="", epilog="")[0]


def parameters(module):
    return sum(weight.numel() for weight in module.parameters())


@pytest.mark.parametrize("block", BLOCKS)
def test_an_attention_block_starts_as_the_identity(block):
    x = torch.randn(2, 32, 5, 5)
    assert torch.equal(block(32)(x), x)


@pytest.mark.parametrize("block", [*BLOCKS, CellGate])
def test_the_gradients_of_attention_are_those_of_finite_differences(block):
    torch.manual_seed(1)
    module = (block() if block is CellGate else block(8)).double()
    for weight in module.parameters():
        nn.init.normal_(weight, std=0.5)
    x = torch.randn(2, 8, 3, 4, dtype=torch.float64, requires_grad=True)
    weights = tuple(module.parameters())

    def run(x, *_):
        return module(x)

    assert torch.autograd.gradcheck(run, (x, *weights))


def test_cbam_is_channels_first_then_cells_by_hand():
    block = HybridAttention(2)
    gate, cells = block[0], block[1]
    x = torch.tensor([[[[1.0, 3.0]], [[0.0, 2.0]]]])  # means 2 and 1, maxima 3 and 2
    for layer in (gate.mlp[0], gate.mlp[2]):
        nn.init.constant_(layer.weight, 0.1)
        nn.init.zeros_(layer.bias)
    # MLP(m) = 4 · 0.1 · (0.1 · Σ m) for each channel: 0.12 + 0.2
    scale = 2 / (1 + math.exp(-(0.04 * 3 + 0.04 * 5)))
    assert torch.allclose(gate(x), scale * x)
    nn.init.zeros_(cells.conv.weight)
    cells.conv.weight.data[0, 0, 3, 3] = 1.0  # the mean over channels of the cell itself
    gated = scale * x
    mean = gated.mean(1, keepdim=True)
    assert torch.allclose(block(x), gated * 2 * mean.sigmoid())


def test_eca_looks_at_as_many_neighbours_as_published():
    assert [kernel_size(channels) for channels in (16, 64, 256, 512)] == [3, 3, 5, 5]
    gate = EfficientChannelGate(16)
    assert parameters(gate) == 3
    nn.init.constant_(gate.conv.weight, 1.0)
    x = torch.arange(16.0).view(1, 16, 1, 1)
    # Channel 5 hears of 4, 5 and 6.
    assert float(gate(x)[0, 5].detach()) == pytest.approx(5 * 2 / (1 + math.exp(-15)))


def test_grouped_convolutions_mix_all_channels_and_cost_their_share():
    net = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1))
    full = parameters(net)
    assert compress(net, "grouped", 4) == 2
    assert parameters(net) - 16 == (full - 16) / 4
    x = torch.zeros(1, 8, 5, 5, requires_grad=True)
    net(x)[0, 0].sum().backward()
    assert (x.grad.abs().sum((0, 2, 3)) > 0).sum() == 4  # two layers of two channels each
    dealt = Shuffle(2)(torch.arange(6.0).view(1, 6, 1, 1)).flatten().tolist()
    assert dealt == [0, 3, 1, 4, 2, 5]


def test_a_convolution_that_does_more_than_pytorchs_is_not_replaced():
    class Padded(torch.nn.Conv2d):
        """As TensorFlow pads: at run time."""

    with pytest.raises(ConfigError, match=r"of its own \(Padded\), which cannot be replaced"):
        compress(torch.nn.Sequential(Padded(8, 8, 3)), "grouped", 4)
    dilated = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 3, padding=2, dilation=2))
    compress(dilated, "depthwise", 1)
    assert dilated(torch.rand(1, 8, 9, 9)).shape == (1, 8, 9, 9)


def test_depthwise_separable_convolutions_keep_the_shape():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 7, 2), nn.Conv2d(8, 12, 3, 2, padding=1), nn.Conv2d(12, 8, 1)
    )
    before = net(torch.zeros(1, 3, 32, 32)).shape
    assert compress(net, "depthwise", 1) == 1  # neither the image's own nor a pointwise one
    assert net(torch.zeros(1, 3, 32, 32)).shape == before
    assert parameters(net[1]) == 8 * 9 + 2 * 8 + 8 * 12 + 12


@pytest.mark.parametrize("kind", ["grouped", "depthwise"])
def test_cheaper_convolutions_hand_on_the_strength_of_what_they_read(kind):
    """Kaiming's start: weights of variance 2/n, n what a filter reads, double that of its input."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(64, 128, 3))
    compress(net, kind, 8)
    first = net[0][0]
    with torch.no_grad():
        said = first(torch.randn(2, 64, 24, 24))
    assert float(said.std()) == pytest.approx(math.sqrt(2), rel=0.1)


@pytest.mark.parametrize("name", ["resnet18", "vgg11"])
def test_compressed_networks_have_a_fifth_of_the_parameters_at_most(name):
    table = cost_table(compressed_family(name), classes=19, image_size=64)
    full, grouped, depthwise = table.values()
    assert grouped.parameters < full.parameters / 5
    assert depthwise.parameters < full.parameters / 5
    assert max(grouped.flops, depthwise.flops) < full.flops / 2
    lines = table_markdown(table).splitlines()
    assert lines[2].startswith(f"| {name}, full | {full.parameters:,} | 100.0% |")


@pytest.mark.parametrize("name", ["resnet18", "vgg11"])
def test_as_the_study_trains_it_with_its_exits_a_network_has_a_fifth_of_the_parameters(name):
    full, trained = (
        build_classifier(read_config(f"self_distill/{name}_{role}").model, ["x"] * 19, 64)
        for role in ("full", "distill")
    )
    assert trained.exits
    assert parameters(trained) < parameters(full) / 5


def test_the_cost_of_each_exit_is_that_of_its_layers():
    config = ClassifierConfig("shallow_x1", exits=["c2", "c3"])
    table, alone = exit_table(config, classes=19, image_size=64)
    network = build_classifier(config, ["x"] * 19, 64)
    stem, c2 = (parameters(network.backbone.stages[name]) for name in ("stem", "c2"))
    assert table["c2"].parameters == stem + c2 + parameters(network.exits["c2"])
    assert table["c2"].flops == table["c2"].until < table["c3"].flops < table["c3"].until
    on_the_way = table["c3"].until - table["c3"].flops  # the exit on c2
    assert table[LAST].flops - alone.flops > on_the_way > 0
    lines = exits_markdown("net", table, alone).splitlines()
    assert lines[3].startswith(f"| net, cut at c2 | {table['c2'].parameters:,} |")
    assert lines[-1].startswith(f"| net, whole | {parameters(network):,} |")


def test_the_networks_of_the_cost_tables_are_the_studies():
    for name, config in WITH_EXITS.items():
        if name != "shallow_x1":
            assert config == read_config(f"self_distill/{config.backbone}_distill").model


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("mobilenet_v3_small", 2_542_856),
        ("shufflenet_v2_x0_5", 1_366_792),
        ("squeezenet", 1_235_496),
        ("resnet18", 11_689_512),
    ],
)
def test_with_its_published_head_a_network_is_the_published_one(name, published):
    network = build(name, classes=[str(at) for at in range(1000)], head="published")
    assert parameters(network) == published


def test_the_marine_student_keeps_to_its_share_of_mobilenet_v3_small():
    experiment = read_config("marine/student")
    whole = build("mobilenet_v3_small", [str(at) for at in range(1000)], head="published")
    bound = round(parameters(whole) * 1.624 / 100)
    assert bound == 41_296
    for classes in (19, 50, 100, 187):  # of the crops; and how far it holds
        student = build_classifier(experiment.model, [str(at) for at in range(classes)], 96)
        assert parameters(student) <= bound
    for size in (64, 96, 224):
        assert student.eval()(torch.rand(1, 3, size, size))[0]["logits"].shape == (187,)


@pytest.mark.parametrize("attention", ["cbam", "eca"])
@pytest.mark.parametrize("backbone", ["resnet18", "timm/resnet18"])
def test_with_attention_a_network_starts_as_it_was(backbone, attention):
    plain, other = build(backbone).eval(), build(backbone, attention=attention).eval()
    moved(plain)
    missing = other.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing  # the blocks, and the stages that lie one deeper now
    for name, stage in plain.backbone.split().items():
        there = other.backbone.stages[name]
        (there[0] if name in plain.features else there).load_state_dict(stage.state_dict())
    x = torch.rand(2, 3, 64, 64)
    assert torch.allclose(plain(x)[0]["logits"], other(x)[0]["logits"], atol=1e-6)


def test_features_are_named_and_of_the_width_and_stride_that_is_said():
    network = build("shufflenet_v2_x0_5").eval()
    said = network.read(network.batch(torch.rand(2, 3, 64, 64)))
    for name, feature in network.features.items():
        shape = said[name].shape
        assert shape[1] == feature.channels
        if name != "logits":
            assert shape[2] == 64 // feature.stride


def test_it_keeps_the_contract_in_training_and_in_evaluation():
    network = build()
    images = [torch.rand(3, 64, 64) for _ in range(2)]
    targets = [{"label": torch.tensor(at)} for at in (0, 2)]
    losses = network.train()(images, targets)
    assert set(losses) == {"loss_label"}
    found = network.eval()(images)
    assert set(found[0]) == {"logits", "probabilities"}
    assert float(found[1]["probabilities"].detach().sum()) == pytest.approx(1)


def test_a_network_cut_at_an_exit_says_the_same_and_holds_nothing_of_the_rest():
    network = build("resnet18", exits=EXITS, convolutions="grouped").eval()
    x = torch.rand(2, 3, 64, 64)
    whole = network(x)
    for at, stage in enumerate(EXITS):
        cut = cut_at(network, stage)
        assert torch.equal(cut(x)[1]["logits"], whole[1]["exits"][at])
        used = parameters(network.exits[stage]) + sum(
            parameters(network.backbone.stages[name])
            for name in ["stem", "c2", "c3", "c4"][: at + 2]
        )
        assert parameters(cut) == used
        # Built anew from its config, it takes the weights.
        again = build_classifier(cut.config, CLASSES, 64).eval()
        again.load_state_dict(cut.state_dict())
        assert torch.equal(again(x)[0]["logits"], cut(x)[0]["logits"])
    assert torch.equal(whole[0]["exits"][-1], whole[0]["logits"])
    with pytest.raises(ConfigError, match="no exit on 'c5' to cut"):
        cut_at(network, "c5")


def test_a_network_built_as_cut_is_the_shallow_network_alone():
    network = build("resnet18", exits=EXITS, convolutions="depthwise").eval()
    alone = build("resnet18", cut="c3", convolutions="depthwise").eval()
    assert list(alone.backbone.stages) == ["stem", "c2", "c3"]
    assert not alone.exits
    alone.load_state_dict(cut_at(network, "c3").state_dict())
    image = [torch.rand(3, 64, 64)]
    assert torch.equal(alone(image)[0]["logits"], network(image)[0]["exits"][1])


def test_prediction_stops_at_the_first_exit_that_is_sure_and_runs_nothing_behind_it():
    network = build(exits=EXITS).eval()
    image = torch.rand(3, 64, 64)
    ran = []
    for name, stage in network.backbone.stages.items():
        stage.register_forward_hook(lambda *_, name=name: ran.append(name))
    assert classify_early(network, image, 0.0)[0] == "c2"
    assert ran == ["stem", "c2"]
    stage, logits = classify_early(network, image, 1.1)
    assert stage == LAST
    assert torch.allclose(logits, network([image])[0]["logits"])
    names = [name for name, _ in each_exit(network, image[None])]
    assert names == [*EXITS, LAST]


def test_operations_until_an_exit_are_counted_by_hand():
    network = build("shallow_x0.5_d1", exits=["c2"], size=32, exit_attention="none")
    found = exit_flops(network, 32)
    # stem: 3→8, 3x3, on 16x16 cells; c2: depthwise 3x3 and pointwise 8→8 on 8x8 cells.
    stages = 2 * 16 * 16 * 8 * 27 + 2 * 8 * 8 * 8 * (9 + 8)
    # exit: three halvings of 3x3 and 8→8, to 48 channels, to 3 classes.
    cells = [4 * 4, 2 * 2, 1]
    exit_ = 2 * (sum(cells) * 8 * (9 + 8) + 8 * 48 + 48 * 3)
    assert found["c2"] == stages + exit_
    assert found[LAST] > found["c2"]


def test_an_exit_narrows_a_wide_stage_while_it_halves_it():
    exit_ = Exit(Feature(64, 8), Feature(128, 32), 3, attention_kind="none")
    # to 32 channels, a quarter of the deepest: 64 3x3, 64→32; 32 3x3, 32→32; 32→128; the classes
    weights = 64 * 9 + 64 * 32 + 32 * 9 + 32 * 32 + 32 * 128 + 128 * 3
    norms = 2 * (64 + 32 + 32 + 32 + 128)
    assert parameters(exit_) == weights + norms + 3
    assert exit_.features(torch.rand(2, 64, 8, 8)).shape == (2, 128, 2, 2)
    alike = Exit(Feature(64, 8), Feature(128, 8), 3)
    assert alike.features(torch.rand(2, 64, 7, 7)).shape == (2, 128, 7, 7)


@pytest.mark.parametrize(
    ("backbone", "convolutions"),
    [
        ("mobilenet_v2", "full"),
        ("squeezenet", "full"),
        ("resnet50", "depthwise"),
        ("timm/resnet18", "grouped"),
        ("timm/test_efficientnet", "full"),
    ],
)
def test_other_networks_have_exits_and_are_cut_there(backbone, convolutions):
    network = build(backbone, convolutions=convolutions, exits=["c2", "c3"]).eval()
    moved(network)
    image = [torch.rand(3, 64, 64)]
    for at, stage in enumerate(("c2", "c3")):
        cut = cut_at(network, stage)
        assert torch.equal(cut(image)[0]["logits"], network(image)[0]["exits"][at])
        assert parameters(cut) < parameters(network) / 2
        ends = build(backbone, convolutions=convolutions, cut=stage).eval()
        ends.load_state_dict(cut.state_dict())
        assert torch.equal(ends(image)[0]["logits"], cut(image)[0]["logits"])
    until = exit_flops(network, 64)
    assert until["c2"] < until["c3"] < until[LAST]
    apart = [logits[0] for _, logits in each_exit(network, torch.stack(image))]
    assert torch.equal(torch.stack(apart), network(image)[0]["exits"])
    where, logits = classify_early(network, image[0], 0.0)
    assert where == "c2"
    assert torch.equal(logits, network(image)[0]["exits"][0])


def test_a_network_that_runs_as_a_whole_has_exits_and_is_not_taken_apart():
    network = build("timm/test_mambaout", exits=["c2"]).eval()  # its channels are last
    assert network.backbone.whole
    found = network([torch.rand(3, 64, 64)])[0]
    assert found["exits"].shape == (2, len(CLASSES))
    with pytest.raises(ConfigError, match="runs as a whole"):
        cut_at(network, "c2")
    for key in ({"cut": "c2"}, {"attention": "eca"}, {"frozen_stages": 1}):
        with pytest.raises(ConfigError, match="runs as a whole"):
            build("timm/test_mambaout", **key)


@pytest.mark.parametrize(
    ("backbone", "signed"),
    [
        ("resnet18", False),
        ("shallow_x1", False),
        ("mobilenet_v2", True),
        ("mobilenet_v3_small", True),
        ("timm/tf_efficientnet_lite0", True),
    ],
)
def test_an_exit_can_say_what_the_deepest_stage_can(backbone, signed):
    network = build(backbone, exits=["c3"]).eval()
    assert is_signed(network.backbone, network.deepest) == signed
    assert not network.backbone.training
    said = network.read(torch.randn(4, 3, 64, 64))
    assert bool((said[network.deepest] < 0).any()) == signed
    assert bool((said["c3.features"] < 0).any()) == signed


@pytest.mark.parametrize("backbone", ["shallow_x0.5", "timm/resnet18"])
def test_a_network_with_attention_begins_as_its_own_checkpoint(tmp_path, backbone):
    experiment = ClassifierExperiment(
        ClassDataConfig("x", image_size=32), ClassifierConfig(backbone, attention="cbam")
    )
    before = moved(build(backbone, attention="cbam", size=32))
    tree = {
        "version": "0",
        "network": "classifier",
        "config": experiment.as_dict(),
        "classes": list(CLASSES),
        "weights": before.state_dict(),
    }
    torch.save(tree, tmp_path / "best.pt")
    weights = str(tmp_path / "best.pt")
    begun = build(backbone, attention="cbam", size=32, weights=weights)
    for key, value in before.backbone.state_dict().items():
        assert torch.equal(value, begun.backbone.state_dict()[key]), key
    assert not torch.equal(before.head.classes.weight, begun.head.classes.weight)
    with pytest.raises(CheckpointError, match=rf"is of '{backbone}' with attention: cbam"):
        build(backbone, size=32, weights=weights)
    whole = Classifier.load(weights)
    image = [torch.rand(3, 32, 32)]
    assert torch.equal(whole(image)[0]["logits"], before.eval()(image)[0]["logits"])


@pytest.mark.parametrize("backbone", ["resnet18", "timm/test_resnet"])
def test_attention_behind_a_frozen_stage_learns(backbone):
    network = build(backbone, attention="cbam", frozen_stages=2)
    loss = network.train()(torch.rand(2, 3, 64, 64), [{"label": torch.tensor(0)}] * 2)["loss_label"]
    loss.backward()
    for name in ("c2", "c3"):
        frozen, block = network.backbone.stages[name]
        assert not any(p.requires_grad for p in frozen.parameters())
        assert not any(m.training for m in frozen.modules())
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in block.parameters())
    cut = build(backbone, attention="cbam", frozen_stages=1, cut="c3").train()
    assert not cut.backbone.stages["c2"][0].training
    assert cut.backbone.stages["c3"][0].training


@pytest.mark.parametrize(
    ("backbone", "convolutions"),
    [("resnet18", "depthwise"), ("vgg11", "depthwise"), ("shallow_x1", "full")],
)
def test_stopping_at_an_exit_saves_operations(backbone, convolutions):
    exits = ["c2", "c3", "c4"] if backbone == "resnet18" else ["c2", "c3"]
    network = build(backbone, convolutions=convolutions, exits=exits).eval()
    found = exit_flops(network, 64)
    alone = exit_flops(without_exits(network), 64)[LAST]
    for name in exits:
        assert exit_flops(cut_at(network, name), 64)[LAST] <= found[name] < 0.96 * alone
    assert found[LAST] < 1.1 * alone


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"exits": ["c5"]}, "no exit can sit on 'c5'; there are c2, c3, c4: an exit needs weights"),
        ({"exits": ["c2", "c2"]}, "model.exits: names 'c2' twice"),
        ({"exits": ["c9"]}, r"model.exits: no exit can sit on 'c9'; there are c2, c3, c4\."),
        ({"cut": "c5"}, "model.cut: no exit can sit on 'c5'; there are c2, c3, c4: an exit needs"),
        # VGG's last stage only pools, so its c4 is the whole network; ShuffleNet's first does.
        ({"backbone": "vgg11", "exits": ["c2", "c4"]}, "on 'c4'; there are c2, c3: an exit needs"),
        ({"backbone": "vgg11", "exits": ["c4"], "attention": "eca"}, "on 'c4'; there are c2, c3"),
        ({"backbone": "shufflenet_v2_x0_5", "exits": ["c2"]}, "on 'c2'; there are c3, c4: an exit"),
        ({"head": "published"}, "'published' is for resnet18"),
        ({"convolutions": "grouped", "weights": "x.pt"}, "start from scratch"),
        ({"backbone": "shallow_x1", "convolutions": "depthwise"}, "has no full convolution of 3x3"),
        ({"frozen_stages": 9}, "more than the 4 stages"),
        (
            {"backbone": "resnet18", "convolutions": "grouped", "frozen_stages": 1},
            "model.frozen_stages: grouped convolutions begin at random",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused_in_a_sentence(changes, said):
    with pytest.raises(ConfigError, match=said):
        build(**changes)


def test_a_detectors_checkpoint_is_not_taken_for_a_classifiers(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"version": "0", "config": {}, "classes": ["a"], "weights": {}}, path)
    with pytest.raises(CheckpointError, match="holds a detector"):
        Classifier.load(path)


Z = torch.tensor([[math.log(2.0), 0.0, 0.0], [0.0, math.log(6.0), 0.0]], dtype=torch.float64)
Y = torch.eye(3, dtype=torch.float64)[[0, 1]]  # p = (1/2, 1/4, 1/4) and (1/8, 3/4, 1/8)


@pytest.mark.parametrize(
    ("config", "counts", "expected"),
    [
        (LabelLossConfig(), (), (math.log(2) + math.log(4 / 3)) / 2),
        (LabelLossConfig(weight=3.0), (), 3 * (math.log(2) + math.log(4 / 3)) / 2),
        (
            LabelLossConfig(smoothing=0.3),
            (),
            (0.8 * math.log(2) + 0.2 * math.log(4) + 0.8 * math.log(4 / 3) + 0.2 * math.log(8)) / 2,
        ),
        (
            LabelLossConfig("focal", gamma=2.0),
            (),
            (0.25 * math.log(2) + math.log(4 / 3) / 16) / 2,
        ),
        # Smoothed labels are (0.8, 0.1, 0.1) and (0.1, 0.8, 0.1).
        (
            LabelLossConfig("focal", gamma=1.0, smoothing=0.3),
            (),
            (
                (0.8 * math.log(2) / 2 + 0.2 * 0.75 * math.log(4))
                + (0.8 * math.log(4 / 3) / 4 + 0.2 * 0.875 * math.log(8))
            )
            / 2,
        ),
        (LabelLossConfig("focal", gamma=0.0), (), (math.log(2) + math.log(4 / 3)) / 2),
        # π = (1/2, 1/4, 1/4): the weights e^z π are (1, 1/4, 1/4) and (1/2, 3/2, 1/4)
        (LabelLossConfig("logit_adjusted"), (2, 1, 1), (math.log(1.5) + math.log(1.5)) / 2),
        (
            LabelLossConfig("logit_adjusted", smoothing=0.3),
            (2, 1, 1),
            (
                (0.8 * math.log(1.5) + 0.2 * math.log(6))
                + (0.1 * math.log(4.5) + 0.8 * math.log(1.5) + 0.1 * math.log(9))
            )
            / 2,
        ),
        (
            LabelLossConfig("logit_adjusted", tau=0.0),
            (2, 1, 1),
            (math.log(2) + math.log(4 / 3)) / 2,
        ),
    ],
)
def test_what_a_label_costs_by_hand(config, counts, expected):
    assert float(LabelLoss(config, counts)(Z, Y)) == pytest.approx(expected)


def test_a_focal_loss_of_a_small_power_has_a_slope_where_it_is_sure():
    logits = torch.tensor([[20.0, 0, 0], [0.5, 0, 0]], requires_grad=True)
    y = torch.tensor([[1.0, 0, 0], [1.0, 0, 0]])
    LabelLoss(LabelLossConfig("focal", gamma=0.5), ())(logits, y).backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[0].abs().max() < 1e-3 < logits.grad[1].abs().max()


def test_mixed_labels_cost_their_shares():
    loss = LabelLoss(LabelLossConfig())
    mixed = 0.25 * Y[:1] + 0.75 * torch.eye(3, dtype=torch.float64)[1:2]
    assert float(loss(Z[:1], mixed)) == pytest.approx(0.25 * math.log(2) + 0.75 * math.log(4))
    targets = [
        {"label": torch.tensor(2)},
        {"label": torch.tensor(0), "probabilities": torch.tensor([0.25, 0.75, 0.0])},
    ]
    assert label_probabilities(targets, 3).tolist() == [[0, 0, 1], [0.25, 0.75, 0]]


def test_adjusting_to_empty_classes_is_refused():
    with pytest.raises(ConfigError, match="needs an image of every class"):
        LabelLoss(LabelLossConfig("logit_adjusted"), (3, 0))


@pytest.mark.parametrize("head", ["pooled", "published"])
def test_a_published_backbone_begins_as_that_of_a_checkpoint(tmp_path, head):
    torch.manual_seed(0)
    config = ClassifierConfig("mobilenet_v3_small", head=head)
    trained = build_classifier(config, ["a", "b"], 32)
    checkpoint = {"version": "1", "config": {}, "classes": [], "weights": trained.state_dict()}
    torch.save(checkpoint, tmp_path / "best.pt")
    config.weights = str(tmp_path / "best.pt")
    begun = build_classifier(config, ["a", "b"], 32).backbone.state_dict()
    for key, value in trained.backbone.state_dict().items():
        assert torch.equal(begun[key], value), key


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("levit_128s", 96, "96 x 96 px; name another size, such as its own of 224."),
        ("pvt_v2_b0", 16, "16 x 16 px; name another size, such as its own of 224."),
        ("lambda_resnet26t", 100, "100 x 100 px; name another size, such as its own of 256."),
    ],
)
def test_a_size_that_a_network_does_not_take_is_refused(name, size, said):
    with pytest.raises(ConfigError) as refused:
        build(f"timm/{name}", size=size)
    assert f"'timm/{name}' takes no images of {said}" in str(refused.value)
    assert build("timm/levit_128s", size=224).image_size == 224
