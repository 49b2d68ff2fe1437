"""Launcher of `detkd train`; what it does stands in detkd/cli/train_det.py."""

from detkd.cli.app import launch

if __name__ == "__main__":
    raise SystemExit(launch("train"))
