"""Measure ratios of speed in one run: nothing here is compared over machines or days.

detkd bench train      a step of our loop against a plain PyTorch loop, teacher and student
detkd bench distill    a distilling step against a plain step plus the teacher's forward pass
detkd bench loading    share of an epoch that the loop waits for data
detkd bench eval       mAP against hotcoco alone, and the command against json.load
detkd bench bootstrap  1,000 draws: their time, exactness and coverage
"""

from __future__ import annotations

import json
from pathlib import Path

from detkd.cli.parser import build_parser


def main(argv: list[str]) -> int:
    parser = build_parser("bench", __doc__)
    parser.add_argument("name", choices=["train", "distill", "loading", "eval", "bootstrap"])
    parser.add_argument("--steps", type=int, default=12, help="timed steps of each kind")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the figures as JSON")
    options = parser.parse_args(argv)

    from detkd.engine.benchmarks import bench_distill, bench_loading, bench_train
    from detkd.engine.judging_benchmarks import bench_bootstrap, bench_eval
    from detkd.files import write_json

    judging = {"eval": bench_eval, "bootstrap": bench_bootstrap}
    training = {"train": bench_train, "distill": bench_distill, "loading": bench_loading}
    if options.name in judging:
        figures = judging[options.name]()
    else:
        bench = training[options.name]
        figures = bench(options.steps, options.image_size, options.batch_size)
    print(json.dumps(figures, indent=1))
    if options.out:
        write_json(options.out, figures)
    return 0
