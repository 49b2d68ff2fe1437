"""Launcher of `detkd bench`; what it does stands in detkd/cli/benchmark.py."""

from detkd.cli.app import launch

if __name__ == "__main__":
    raise SystemExit(launch("bench"))
