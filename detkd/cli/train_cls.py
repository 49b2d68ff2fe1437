"""Train a classifier: a teacher, a plain, a distilled or a self-distilled one, as the config says.

One CPU or GPU:        detkd train-cls --config configs/marine/teacher.yaml
Another value:         detkd train-cls --config configs/marine/student.yaml --train.epochs 30
A fold of five:        detkd train-cls --config configs/marine/student.yaml --data.folds 5 ...
Go on after a stop:    detkd train-cls --config configs/marine/student.yaml --resume
Weights that suit:     detkd train-cls --config configs/marine/distill.yaml --suggest-weights
Several GPUs:          torchrun --nproc_per_node 4 -- tools/train_cls.py --config ...
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from detkd.cli.arguments import read_kind
from detkd.config import ClassifierExperiment

if TYPE_CHECKING:
    from detkd.engine.run import RunFolder


def main(argv: list[str]) -> int:
    experiment, options = read_kind(
        ClassifierExperiment,
        "detkd train-cls",
        argv,
        description=__doc__.splitlines()[0],
        epilog=__doc__,
    )
    if options.suggest_weights:
        from detkd.cli.suggest_weights import suggest

        suggest(experiment)
    else:
        run_classifier(experiment, folder=options.run, resume=options.resume)
    return 0


def run_classifier(
    experiment: ClassifierExperiment, *, folder: str | None = None, resume: bool = False
) -> RunFolder:
    """Train, judge the best checkpoint on the validation images; the run folder."""
    from detkd.engine.class_judging import final_class_judgement
    from detkd.engine.class_parts import (
        SCORES,
        build_class_judge,
        build_class_loader,
        build_class_trainable,
        check_division,
        open_class_data,
    )
    from detkd.engine.class_preflight import check_class_teacher, tell_begun
    from detkd.engine.devices import build_fabric
    from detkd.engine.fit import fit
    from detkd.engine.run import RunFolder
    from detkd.models.weights import read_checkpoint

    fabric = build_fabric(experiment.train)
    train_set, val_set = open_class_data(experiment)
    loader = build_class_loader(train_set, experiment, fabric)
    trainable = build_class_trainable(experiment, train_set, loader)
    check_class_teacher(experiment, train_set, val_set)
    run = RunFolder(folder or f"runs/{experiment.name}")
    first = fabric.is_global_zero  # of several processes, the one that writes
    with run.alone() if first else nullcontext():
        if first:
            if resume and run.last.is_file():
                before = read_checkpoint(run.last)
                check_division(train_set.division, train_set.data.source, before, run.last)
            run.open(experiment, resume=resume, data=train_set.division)
            tell_begun(experiment, train_set)
        judge = build_class_judge(val_set, experiment)
        fit(trainable, loader, judge, experiment, run, fabric, scores=SCORES, resume=resume)
        if first:
            final_class_judgement(run, val_set, fabric.device)
    return run
