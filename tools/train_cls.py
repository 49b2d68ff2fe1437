"""Launcher of `detkd train-cls`; what it does stands in detkd/cli/train_cls.py."""

from detkd.cli.app import launch

if __name__ == "__main__":
    raise SystemExit(launch("train-cls"))
