"""Weights from files: read as data, never as code, and never loaded half."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from detkd.errors import CheckpointError, ConfigError
from detkd.pixels import Levels

C = TypeVar("C")  # a model's config
N = TypeVar("N", bound=nn.Module)
CHECKPOINT_KEYS = ("version", "config", "classes", "weights")


def read_tensors(path: str | Path) -> dict[str, Any]:
    """What a .safetensors, .pt or .pth file holds; code inside it is not run.

    Raises:
        CheckpointError: no such file, or one that is cut off, foreign or hostile.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; name a checkpoint or a weights file.")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of foreign pickles: they are refused in a sentence
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: holds more than tensors and plain values, so it was not opened "
            "(it could run code); use a checkpoint that detkd wrote, or safetensors."
        ) from error
    except (
        SafetensorError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        OSError,
        zipfile.BadZipFile,
    ) as error:
        raise CheckpointError(
            f"{path}: cannot be read as weights (cut off or of another kind); take an intact copy."
        ) from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path}: holds a {type(loaded).__name__} instead of named weights.")
    return loaded


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint that detkd wrote, as a dictionary on the CPU.

    Raises:
        CheckpointError: as `read_tensors`, where a part is missing, or of a run folder.
    """
    if (Path(path) / "best.pt").is_file():
        raise CheckpointError(f"{path}: is a run folder; name its checkpoint, {path}/best.pt.")
    checkpoint = read_tensors(path)
    missing = [key for key in CHECKPOINT_KEYS if key not in checkpoint]
    if missing:
        raise CheckpointError(
            f"{path}: is no checkpoint of detkd: '{missing[0]}' is missing; "
            "plain backbone weights go into model.weights."
        )
    return checkpoint


def is_checkpoint(weights: str | None) -> bool:
    """Whether `model.weights` is a checkpoint that detkd wrote; not so none, nor 'imagenet'.

    Raises:
        CheckpointError: as `read_tensors`.
    """
    return weights not in (None, "imagenet") and _has_network(read_tensors(str(weights)))


def _has_network(found: dict[str, Any]) -> bool:
    return set(CHECKPOINT_KEYS) <= found.keys()


def levels_in(checkpoint: dict[str, Any]) -> Levels | None:
    """The 16-bit levels of the images that its network was trained on."""
    said = checkpoint.get("sixteen_bit")
    return (float(said[0]), float(said[1])) if said else None


# Beside each kind of network, the other one and the command that judges it.
OTHERS = {"detector": ("classifier", "eval-cls"), "classifier": ("detector", "eval")}


def network_from(
    checkpoint: dict[str, Any],
    path: str | Path,
    kind: str,
    config: Callable[..., C],
    build: Callable[[C, Sequence[str], int], N],
) -> N:
    """The network of one kind that a checkpoint describes, in evaluation mode.

    Args:
        checkpoint: as `read_checkpoint` gives it.
        path: where it was read, for the sentences.
        kind: detector or classifier.
        config: makes the model's config of its keys.
        build: makes the network of that config, the classes and the size of images in px.

    Raises:
        CheckpointError: its config or weights are not those of such a network.
    """
    if checkpoint.get("network", "detector") != kind:
        other, judge = OTHERS[kind]
        raise CheckpointError(
            f"{path}: holds a {other}, where a {kind} is needed; 'detkd {judge}' judges it."
        )
    try:
        said = checkpoint["config"]
        # The weights come from the checkpoint: where they once started does not matter now.
        model = config(**{**said["model"], "weights": None})
        network = build(model, tuple(checkpoint["classes"]), int(said["data"]["image_size"]))
    except (KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(
            f"{path}: its config (written by detkd {checkpoint['version']}) describes no "
            f"{kind} of this version: {error}."
        ) from error
    try:
        network.load_state_dict(checkpoint["weights"])
    except (RuntimeError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: its weights are not those of the '{said['model']['backbone']}' {kind} that "
            "its config describes; take an intact checkpoint."
        ) from error
    return network.eval()


def download(url: str) -> Path:
    """The weights at `url`, kept in torch's own cache and read from there the next time.

    Raises:
        CheckpointError: no way to the host, a full disk, or bytes that do not fit the hash in
            the file's name.
    """
    name = url.rsplit("/", 1)[-1]
    path = Path(torch.hub.get_dir(), "checkpoints", name)
    if path.is_file():
        return path
    tag = re.search(r"-([0-9a-f]{6,})\.", name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=tag[1] if tag else None)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"{url}: cannot be downloaded ({error}); fetch the file elsewhere and name it in "
            "model.weights."
        ) from error
    return path


def load_weights(module: nn.Module, path: str | Path, *, unused: tuple[str, ...] = ()) -> None:
    """Load weights from a file into `module`, all of them or none.

    Of a checkpoint that detkd wrote they are its backbone's, a detector's or a classifier's.
    Counters of batch norm may be missing; keys that begin with one of `unused` (the classifier,
    layers behind the last stage) may be missing or of any shape.

    Raises:
        CheckpointError: another key is missing, or a shape differs.
    """
    found = read_tensors(path)
    config = None
    if _has_network(found):
        config = found["config"]
        found = {
            key.removeprefix("backbone.").removeprefix("body."): value
            for key, value in found["weights"].items()
            if key.startswith("backbone.")
        }
    wanted = module.state_dict()
    needed = {
        key: value
        for key, value in wanted.items()
        if not key.startswith(unused or ("\0",)) and not key.endswith("num_batches_tracked")
    }
    missing = [key for key in needed if key not in found]
    if missing:
        raise CheckpointError(
            f"{path}: {len(missing)} of {len(needed)} weights of {type(module).__name__} are not "
            f"in it, the first is '{missing[0]}'; {_other(config)}"
        )
    for key, value in needed.items():
        if not isinstance(found[key], Tensor) or found[key].shape != value.shape:
            shape = list(getattr(found[key], "shape", []))
            raise CheckpointError(
                f"{path}: '{key}' has shape {shape} and the network needs {list(value.shape)}; "
                f"{_other(config)}"
            )
    module.load_state_dict({key: found[key] for key in needed}, strict=False)


def _other(config: Any) -> str:
    """Why weights may not fit: of a checkpoint's config, what else there is to its network."""
    model = config.get("model") if isinstance(config, dict) else None
    if not isinstance(model, dict):
        return "is it the file of another network?"
    usual = {"attention": "none", "convolutions": "full", "cut": None}
    odd = [f"{key}: {model[key]}" for key, value in usual.items() if model.get(key, value) != value]
    more = f" with {', '.join(odd)}" if odd else ""
    return f"it is of '{model.get('backbone')}'{more}: name weights of the same network."
