"""Configs and data-set cards that come with detkd, in a checkout and in an installed package."""

from __future__ import annotations

from pathlib import Path


def shipped(kind: str, *parts: str) -> Path:
    """Path of a file or folder of `kind` (configs or datasets)."""
    package = Path(__file__).parent
    installed = package / "shipped_files" / kind
    folder = installed if installed.is_dir() else package.parent / kind
    return folder.joinpath(*parts)
