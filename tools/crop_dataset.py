"""Launcher of `detkd crop`; what it does stands in detkd/cli/crop_dataset.py."""

from detkd.cli.app import launch

if __name__ == "__main__":
    raise SystemExit(launch("crop"))
