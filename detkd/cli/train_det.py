"""Train a detector: a teacher, a plain student or a distilled student, as the config says.

One CPU or GPU:        detkd train --config configs/bccd/teacher.yaml
Another value:         detkd train --config configs/bccd/student.yaml --train.epochs 50
Go on after a stop:    detkd train --config configs/bccd/student.yaml --resume
Several GPUs:          torchrun --nproc_per_node 4 -- tools/train_det.py --config ...
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from detkd.cli.arguments import read_experiment

if TYPE_CHECKING:
    from detkd.config import Experiment
    from detkd.engine.run import RunFolder


def main(argv: list[str]) -> int:
    experiment, options = read_experiment(
        "detkd train", argv, description=__doc__.splitlines()[0], epilog=__doc__
    )
    run_detector(experiment, folder=options.run, resume=options.resume)
    return 0


def run_detector(
    experiment: Experiment, *, folder: str | None = None, resume: bool = False
) -> RunFolder:
    """Train, judge the best checkpoint, and say where everything lies; the run folder."""
    import torch

    from detkd.distill.distiller import Distiller, build_distiller
    from detkd.engine.devices import build_fabric
    from detkd.engine.fit import fit
    from detkd.engine.parts import build_judge, build_loader, final_judgement, open_data
    from detkd.engine.run import RunFolder
    from detkd.models.detector import Detector, build_detector

    distill = experiment.distill
    fabric = build_fabric(experiment.train, thaws=bool(distill and distill.freeze_until < 1))
    torch.manual_seed(experiment.train.seed)
    train_set, val_set = open_data(experiment)  # also measures the anchors, where asked for
    student = build_detector(experiment.model, train_set.classes, experiment.data.image_size)
    loader = build_loader(train_set, experiment, fabric)
    trainable: Detector | Distiller = student
    if distill:
        teacher = Detector.load(distill.teacher)
        steps = experiment.train.epochs * len(loader)
        trainable = build_distiller(student, teacher, distill, steps=steps)
    run = RunFolder(folder or f"runs/{experiment.name}")
    if fabric.is_global_zero:
        run.open(experiment, resume=resume)
    judge = build_judge(val_set, experiment)
    fit(trainable, loader, judge, experiment, run, fabric, resume=resume)
    if fabric.is_global_zero:
        final_judgement(run, val_set, experiment, fabric.device)
    return run
