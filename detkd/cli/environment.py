"""Print versions and devices: paste them into a bug report."""

from __future__ import annotations

import argparse


def main(argv: list[str]) -> int:
    argparse.ArgumentParser(prog="detkd env", description=__doc__).parse_args(argv)
    from detkd.engine.run import environment

    print(environment(), end="")
    return 0
