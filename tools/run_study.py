"""Launcher of `detkd study`; what it does stands in detkd/cli/run_study.py."""

from detkd.cli.app import launch

if __name__ == "__main__":
    raise SystemExit(launch("study"))
