"""Launcher of `detkd eval-cls`; what it does stands in detkd/cli/eval_cls.py."""

from detkd.cli.app import launch

if __name__ == "__main__":
    raise SystemExit(launch("eval-cls"))
