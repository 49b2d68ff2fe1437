"""Where a training runs: device, precision, processes, threads and determinism.

One process is started by hand, several by `torchrun --nproc_per_node N -- tools/train_det.py ...`
or by SLURM's `srun`; Lightning Fabric reads their environment.
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

import torch

from detkd.config import TrainConfig
from detkd.errors import ConfigError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PRECISIONS: dict[str, Any] = {"bf16": "bf16-mixed", "fp16": "16-mixed"}


def choose_device(name: str) -> str:
    """'cpu' or 'cuda' for 'auto', 'cpu' or 'cuda'.

    Raises:
        ConfigError: a GPU was asked for, and torch sees none.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "train.device: 'cuda' was asked for, and torch sees no GPU; set train.device: auto, "
            "or install a torch build that matches the driver."
        )
    return name


def build_fabric(train: TrainConfig, *, thaws: bool = False) -> Fabric:
    """Fabric for this process and its siblings, already launched.

    `thaws` says that some parameters get gradients only later in the training.

    Raises:
        ConfigError: no such device, or a precision that it cannot do.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.plugins import MixedPrecision
    from lightning_fabric.strategies import DDPStrategy

    class MixedInside(MixedPrecision):
        """Autocast inside the network alone: a box rounded to bf16 is off by up to half a px."""

        def convert_input(self, data: Any) -> Any:
            return data

    device = choose_device(train.device)
    if train.precision == "fp16" and device == "cpu":
        raise ConfigError("train.precision: fp16 needs a GPU; use bf16 or 32 on the CPU.")
    if train.threads:
        torch.set_num_threads(train.threads)
    # CUBLAS asks for this before its first call where results must repeat.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(train.deterministic, warn_only=True)
    # That also writes NaN into all new memory, which finds reads of it but decides no result: a
    # twentieth of a step on a CPU.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # torchvision's RoIAlign has no deterministic CUDA form; the warning would come every step.
    warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation.*")
    local, world = processes_begun()
    try:
        fabric = Fabric(
            accelerator=device,
            devices=local,
            num_nodes=max(1, world // local),
            strategy=DDPStrategy(find_unused_parameters=thaws) if world > 1 else "auto",
            plugins=None
            if train.precision == "32"
            else MixedInside(PRECISIONS[train.precision], device),
        )
    except (RuntimeError, ValueError) as error:
        if "SLURM_NTASKS" not in os.environ:
            raise
        raise ConfigError(
            f"SLURM's allocation does not fit this training ({error}); begin it by `srun`, and "
            "give sbatch --ntasks-per-node, or one task."
        ) from error
    fabric.launch()
    return fabric


def processes_begun() -> tuple[int, int]:
    """How many processes of this training are on this machine, and in all.

    In a SLURM allocation of several tasks there is one until `srun` begins them.
    """
    env, names = os.environ, ("SLURM_NTASKS_PER_NODE", "SLURM_STEP_NUM_TASKS")
    of_node, of_step = (int(env.get(name) or 1) for name in names)
    local = int(env.get("LOCAL_WORLD_SIZE") or (of_node if of_step > 1 else 1))
    return local, int(env.get("WORLD_SIZE") or (of_step if of_step > 1 else local))


def seed_step(seed: int, step: int, rank: int) -> None:
    """Make the randomness of a step a function of (seed, step, rank) alone.

    Sampling of anchors and proposals draws from torch's global generator. Seeding it anew at
    each step is what makes a resumed run equal an unbroken one without saving its state.
    """
    torch.manual_seed((seed * 1_000_003 + step) * 1_009 + rank)


def peak_memory(device: torch.device) -> float | None:
    """The most memory held so far in MiB: on a GPU by tensors, on the CPU by this process.

    None where the system does not tell (Windows). A figure that still grows after the second epoch
    is a leak.
    """
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in KiB, on macOS in bytes
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)
