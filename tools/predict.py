"""Launcher of `detkd predict`; what it does stands in detkd/cli/predict.py."""

from detkd.cli.app import launch

if __name__ == "__main__":
    raise SystemExit(launch("predict"))
