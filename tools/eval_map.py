"""Launcher of `detkd eval`; what it does stands in detkd/cli/eval_map.py."""

from detkd.cli.app import launch

if __name__ == "__main__":
    raise SystemExit(launch("eval"))
