"""Launcher of `detkd count`; what it does stands in detkd/cli/count_objects.py."""

from detkd.cli.app import launch

if __name__ == "__main__":
    raise SystemExit(launch("count"))
