"""Print versions and devices: paste them into a bug report."""

from __future__ import annotations

from detkd.cli.parser import build_parser


def main(argv: list[str]) -> int:
    build_parser("env", __doc__).parse_args(argv)
    from detkd.engine.run import environment

    print(environment(), end="")
    return 0
