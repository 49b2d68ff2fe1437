"""An exported classifier says what its network says."""

import numpy as np
import pytest
import torch

from detkd.cli.arguments import read_kind
from detkd.config import ClassifierConfig, ClassifierExperiment
from detkd.deploy.onnx_classifier import OnnxClassifier, write_onnx_classifier
from detkd.engine.class_benchmarks import difference
from detkd.models.classifier import build_classifier
from detkd.shipped import shipped

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

NETWORKS = {
    "shallow": ClassifierConfig("shallow_x0.5", attention="cbam"),
    "published": ClassifierConfig("mobilenet_v3_small", head="published"),
    "exits": ClassifierConfig("resnet18", convolutions="grouped", exits=["c2", "c3"]),
}


@pytest.mark.parametrize(
    "name", ["shallow", pytest.param("published", marks=pytest.mark.slow), "exits"]
)
def test_logits_are_those_of_the_network_for_any_number_of_images(name, tmp_path):
    torch.manual_seed(0)
    network = build_classifier(NETWORKS[name], ("ant", "bee", "cat"), 64).train()
    with torch.no_grad():
        for _ in range(3):  # statistics of real activations
            network.read(network.batch(torch.rand(8, 3, 64, 64)))
    network.eval()
    write_onnx_classifier(network, tmp_path / "model.onnx")
    exported = OnnxClassifier(tmp_path / "model.onnx", threads=1)
    for count in (1, 3):
        images = torch.rand(count, 3, 64, 64)
        with torch.no_grad():
            ours = torch.stack([each["logits"] for each in network(images)]).numpy()
        theirs = exported(images.numpy())
        assert theirs.shape == (count, 3)
        assert np.ptp(ours) > 1e-3
        np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-5)
    graph = onnx.load(tmp_path / "model.onnx")
    assert [(o.domain, o.version) for o in graph.opset_import if o.domain == ""] == [("", 18)]
    assert [out.name for out in graph.graph.output] == ["logits"]
    assert not [weight.name for weight in graph.graph.initializer if "exits" in weight.name]
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]  # no weights beside it


def test_the_marine_student_s_logits_are_the_same_to_a_ten_thousandth(tmp_path):
    config = ["--config", str(shipped("configs", "marine", "student.yaml"))]
    experiment = read_kind(ClassifierExperiment, "x", config, description="", epilog="")[0]
    side = experiment.data.image_size
    torch.manual_seed(0)
    network = build_classifier(experiment.model, [str(at) for at in range(19)], side).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=0.02)
    for step in range(30):  # images of a colour each, so that logits grow
        labels = torch.arange(19)[step % 3 :: 3]
        colours = torch.stack([labels % 3, labels // 3 % 3, labels // 9], 1)[:, :, None, None] / 2
        images = (colours + 0.1 * torch.randn(len(labels), 3, side, side)).clamp(0, 1)
        loss = network(images, [{"label": label} for label in labels])["loss_label"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    network.eval()
    write_onnx_classifier(network, tmp_path / "model.onnx")
    answer = OnnxClassifier(tmp_path / "model.onnx", threads=1)
    apart, greatest = difference(network, answer, side)
    assert greatest > 3
    assert apart < 1e-4
