"""Launcher of `detkd convert`; what it does stands in detkd/cli/convert_dataset.py."""

from detkd.cli.app import launch

if __name__ == "__main__":
    raise SystemExit(launch("convert"))
