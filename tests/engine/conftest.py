from types import SimpleNamespace

import pytest
from forks import popen


@pytest.fixture(autouse=True)
def forked_trainings(monkeypatch):
    """The trainings of a study begin at once (see forks.py)."""
    monkeypatch.setattr("detkd.engine.trainings.subprocess", SimpleNamespace(Popen=popen))
