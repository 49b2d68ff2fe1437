"""ImageNet weights, fetched from a server on this machine."""

import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from torchvision import models

from detkd.errors import CheckpointError
from detkd.models.backbones import build_backbone


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path, monkeypatch):
    """Serve a weights file in place of torchvision's; returns the network and its file's path."""
    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    torch.manual_seed(3)
    net = models.mobilenet_v3_small()
    torch.save(net.state_dict(), folder / "net.pth")
    digest = hashlib.sha256((folder / "net.pth").read_bytes()).hexdigest()[:8]
    path = (folder / "net.pth").rename(folder / f"net-{digest}.pth")
    weights = models.get_model_weights("mobilenet_v3_small").DEFAULT
    url = f"http://127.0.0.1:{server.server_port}/{path.name}"
    monkeypatch.setattr(weights.value, "url", url)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    yield net, path
    server.shutdown()


def test_imagenet_weights_are_downloaded_once(served):
    net, path = served
    first = build_backbone("mobilenet_v3_small", weights="imagenet")
    assert torch.equal(first.stages["stem2"][0][0].weight, net.features[0][0].weight)
    path.unlink()
    again = build_backbone("mobilenet_v3_small", weights="imagenet")
    assert torch.equal(again.stages["stem2"][0][0].weight, net.features[0][0].weight)


def test_bytes_that_do_not_fit_the_hash_are_refused_and_not_kept(served, tmp_path):
    _, path = served
    path.write_bytes(path.read_bytes()[:-100] + bytes(100))
    with pytest.raises(CheckpointError, match="cannot be downloaded"):
        build_backbone("mobilenet_v3_small", weights="imagenet")
    assert not list((tmp_path / "cache").rglob("*.pth"))


def test_a_host_out_of_reach_ends_in_a_sentence(served):
    _, path = served
    path.unlink()
    with pytest.raises(CheckpointError, match=r"404.*name it in model\.weights"):
        build_backbone("mobilenet_v3_small", weights="imagenet")
