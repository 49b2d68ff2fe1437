"""Launcher of `detkd classify`; what it does stands in detkd/cli/classify.py."""

from detkd.cli.app import launch

if __name__ == "__main__":
    raise SystemExit(launch("classify"))
