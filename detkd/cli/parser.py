"""The argument parser of the commands without an experiment."""

from __future__ import annotations

import argparse
from typing import NoReturn

from detkd.errors import UserError


class Parser(argparse.ArgumentParser):
    """Says what is wrong with an argument in one sentence, as all of detkd does."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; '{self.prog} --help' tells what there is.")


def build_parser(command: str, description: str | None, examples: str = "") -> Parser:
    """A parser for `detkd COMMAND`; the texts keep their lines."""
    return Parser(
        prog=f"detkd {command}",
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
