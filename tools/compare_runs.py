"""Launcher of `detkd compare`; what it does stands in detkd/cli/compare_runs.py."""

from detkd.cli.app import launch

if __name__ == "__main__":
    raise SystemExit(launch("compare"))
