"""Launcher of `detkd export`; what it does stands in detkd/cli/export_model.py."""

from detkd.cli.app import launch

if __name__ == "__main__":
    raise SystemExit(launch("export"))
