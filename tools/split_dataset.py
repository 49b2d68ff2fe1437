"""Launcher of `detkd split`; what it does stands in detkd/cli/split_dataset.py."""

from detkd.cli.app import launch

if __name__ == "__main__":
    raise SystemExit(launch("split"))
