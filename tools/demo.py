"""Launcher of `detkd demo`; what it does stands in detkd/cli/demo.py."""

from detkd.cli.app import launch

if __name__ == "__main__":
    raise SystemExit(launch("demo"))
