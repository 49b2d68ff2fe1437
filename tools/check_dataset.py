"""Launcher of `detkd check`; what it does stands in detkd/cli/check_dataset.py."""

from detkd.cli.app import launch

if __name__ == "__main__":
    raise SystemExit(launch("check"))
