"""Train a detector: a teacher, a plain, a distilled or a self-distilled one, as the config says.

One CPU or GPU:        detkd train --config configs/bccd/teacher.yaml
Another value:         detkd train --config configs/bccd/student.yaml --train.epochs 50
Go on after a stop:    detkd train --config configs/bccd/student.yaml --resume
Weights that suit:     detkd train --config configs/bccd/distill.yaml --suggest-weights
Several GPUs:          torchrun --nproc_per_node 4 -- tools/train_det.py --config ...
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from detkd.cli.arguments import read_experiment

if TYPE_CHECKING:
    from detkd.config import Experiment
    from detkd.engine.run import RunFolder


def main(argv: list[str]) -> int:
    experiment, options = read_experiment(
        "detkd train", argv, description=__doc__.splitlines()[0], epilog=__doc__
    )
    if options.suggest_weights:
        from detkd.cli.suggest_weights import suggest

        suggest(experiment)
    else:
        run_detector(experiment, folder=options.run, resume=options.resume)
    return 0


def run_detector(
    experiment: Experiment, *, folder: str | None = None, resume: bool = False
) -> RunFolder:
    """Train, judge the best checkpoint, and say where everything lies; the run folder."""
    from detkd.data.dataset import digest_of_sides
    from detkd.distill.distiller import Distiller
    from detkd.engine.devices import build_fabric
    from detkd.engine.fit import fit
    from detkd.engine.parts import (
        build_judge,
        build_loader,
        build_trainable,
        final_judgement,
        open_data,
    )
    from detkd.engine.preflight import check_teacher
    from detkd.engine.run import RunFolder

    distill = experiment.distill
    fabric = build_fabric(experiment.train, thaws=bool(distill and distill.freeze_until < 1))
    train_set, val_set = open_data(experiment)  # also measures the anchors, where asked for
    loader = build_loader(train_set, experiment, fabric)
    trainable = build_trainable(experiment, train_set.classes, loader)
    run = RunFolder(folder or f"runs/{experiment.name}")
    first = fabric.is_global_zero  # of several processes, the one that writes
    with run.alone() if first else nullcontext():
        if first:
            learned = digest_of_sides(experiment.data.train, experiment.data.val)
            run.open(experiment, resume=resume, data=learned)
        if isinstance(trainable, Distiller) and first:
            print("\n".join(trainable.lines()))
        if distill:
            check_teacher(distill.teacher, val_set, distill.preflight, fabric.device)
        judge = build_judge(val_set, experiment)
        fit(trainable, loader, judge, experiment, run, fabric, resume=resume)
        if first:
            final_judgement(run, val_set, experiment, fabric.device)
    return run
