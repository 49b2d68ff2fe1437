import pytest
import torch
from networks import small


@pytest.fixture
def student():
    torch.manual_seed(0)
    return small()


@pytest.fixture
def teacher():
    torch.manual_seed(1)
    detector = small("resnet18@c4")
    # Statistics of real activations: those of a fresh network make constant features.
    detector.train()
    with torch.no_grad():
        for _ in range(3):
            detector.backbone(torch.rand(2, 3, 96, 96))
    return detector.eval()


@pytest.fixture
def batch():
    torch.manual_seed(2)
    images = [torch.rand(3, 72, 96), torch.rand(3, 96, 64)]
    boxes = torch.tensor([[5.0, 8, 30, 40], [40, 20, 60, 60]])
    target = {"boxes": boxes, "labels": torch.tensor([1, 2])}
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    return images, [target, nothing]
