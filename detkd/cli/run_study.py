"""A whole study: every row with every seed, and the table of it.

detkd study configs/microalgae --seeds 0 1 2
detkd study configs/microalgae --seeds 0 1 2 --rows plain best
detkd study configs/microalgae --seeds 0 1 2 --print-slurm > submit.sh

What has ended is not run again, and what was interrupted goes on. One training at a time runs on a
CPU, one on each GPU (more with --jobs). Figures lie in docs/results/NAME.json, the table beside it.
Classifiers are studied by the same command: detkd study configs/marine --seeds 0 1 2
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detkd.cli.parser import build_parser
from detkd.errors import ConfigError


def main(argv: list[str]) -> int:
    parser = build_parser("study", __doc__)
    parser.add_argument("study", type=Path, help="a study file, or a folder with study.yaml")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="0 if none is named")
    parser.add_argument("--rows", nargs="+", default=[], metavar="ROW", help="these rows alone")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once on a device")
    parser.add_argument("--print-slurm", action="store_true", help="print a script and run nothing")
    table = parser.add_mutually_exclusive_group()
    table.add_argument("--no-table", action="store_true", help="do not write the table")
    table.add_argument("--table-only", action="store_true", help="write it, and train nothing")
    options = parser.parse_args(argv)
    if options.jobs < 1:
        raise ConfigError(f"--jobs: {options.jobs} trainings never end; give 1 or more.")

    from detkd.cli.arguments import read_kind
    from detkd.config import AnyExperiment
    from detkd.data.frames import refuse_tested
    from detkd.engine.study import plan, read_study, slurm_script
    from detkd.engine.study_results import Results
    from detkd.engine.trainings import run_all

    study = read_study(options.study)

    def resolve(arguments: list[str]) -> AnyExperiment:
        kind: Any = study.kind.experiment
        prog = f"detkd {study.command}"
        return read_kind(kind, prog, arguments, description="", epilog="")[0]

    tasks = plan(study, options.seeds, resolve, options.rows)
    if options.print_slurm:
        print(slurm_script(study, tasks, options.seeds, options.rows), end="")
        return 0
    results = Results(study)
    waiting = [task for task in tasks if not results.holds(task)]
    for task in waiting:
        if task.frames and study.test:
            refuse_tested(Path(task.frames), study.test)
    figures = study.kind.figures
    missing = [task for task in waiting if options.table_only and not task.done]
    failed = missing + run_all(
        [task for task in waiting if task not in missing],
        lambda task: results.add(task, figures(task.run, study.test)),
        options.jobs,
    )
    if not options.no_table:
        results.compare()
        tables = [table for table in (results.table(), results.differences()) if table]
        _write_tables(tables, results.commands(), study.results.with_suffix(".md"))
    for task in failed:
        said = "not there" if options.table_only else "failed"
        print(f"{said}: {task.row}, seed {task.seed}; see {task.run}.log")
    return 1 if failed else 0


def _write_tables(tables: list[list[dict[str, str]]], commands: list[str], path: Path) -> None:
    from detkd.files import write_atomic
    from detkd.markdown import markdown_table

    if not tables:
        return
    texts = [
        markdown_table([list(table[0]), *(list(row.values()) for row in table)]) for table in tables
    ]
    made_by = "".join(f"    {command}\n" for command in commands)
    write_atomic(path, "\n".join(texts) + f"\nMade by\n\n{made_by}")
    for table in tables:
        _show(table)
    print(f"written: {path}, {path.with_suffix('.json')}")


def _show(table: list[dict[str, str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    for column in table[0]:
        names = column in ("row", "less")
        shown.add_column(column, justify="left" if names else "right", no_wrap=True)
    for row in table:
        shown.add_row(*row.values())
    console = Console()
    # Where the window is too narrow, its lines are broken rather than columns lost.
    wide = console.measure(shown, options=console.options.update(width=1000)).maximum
    console.width = max(console.width, wide)
    console.print(shown)
