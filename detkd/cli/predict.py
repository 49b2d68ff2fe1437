"""What a detector finds on the frames of a folder, a stack, a video or a camera.

    detkd predict frames/ --checkpoint runs/bccd-distill/best.pt --out found --draw
    detkd predict frames/ --model exported --out found

writes found/results.csv (a row a detection), frames.csv (a row a frame) and run.json; the same
command goes on with a run that was stopped. An exported folder does the same without torch and
detkd: python exported/runner.py frames/ --out found. `detkd count` makes cells per litre of it.
Ends 1 if frames could not be read.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from detkd.cli.parser import build_parser
from detkd.errors import UserError


def main(argv: list[str]) -> int:
    from detkd.deploy import runner

    parser = build_parser("predict", __doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", type=Path, help="a detector's best.pt")
    source.add_argument("--model", type=Path, help="an exported folder")
    runner.add_arguments(parser)
    parser.add_argument(
        "--thresholds", type=Path, metavar="FILE", help="scores from which on a class counts"
    )
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    options = parser.parse_args(argv)
    try:
        tally = runner.run(_model(options), options, _say)
    except runner.RefusedError as error:
        raise UserError(str(error)) from error
    print(runner.summary(tally, options.out))
    return 1 if tally.failed else 0


def _model(options: argparse.Namespace) -> Any:
    from detkd.deploy import runner

    if options.model:
        if options.thresholds:
            raise UserError("--thresholds: an exported folder has its own; export with them.")
        model = runner.Model(options.model, options.threads, options.variant, options.unproven)
        if model.proof:
            _say(model.proof)
        return model
    if options.variant:
        raise UserError("--variant: a checkpoint has none; name an exported folder with --model.")
    import torch

    from detkd.deploy.checkpoint_model import CheckpointModel
    from detkd.engine.devices import choose_device

    if options.threads:
        torch.set_num_threads(options.threads)
    return CheckpointModel(
        options.checkpoint, thresholds=options.thresholds, device=choose_device(options.device)
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
