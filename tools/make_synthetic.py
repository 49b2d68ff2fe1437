"""Launcher of `detkd synth`; what it does stands in detkd/cli/make_synthetic.py."""

from detkd.cli.app import launch

if __name__ == "__main__":
    raise SystemExit(launch("synth"))
