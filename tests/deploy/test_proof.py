"""The runner and what the export has proven of its model."""

import json
import shutil

import cv2
import numpy as np

from detkd.cli.app import launch
from detkd.deploy import runner


def test_the_runner_refuses_a_model_that_failed_and_says_what_was_left_out(
    model_folder, tmp_path, capsys
):
    folder = tmp_path / "exported"
    shutil.copytree(model_folder[0], folder)
    assert "compared in part, without images of ground truth" in runner.Model(folder, 1).proof

    def said(**parity):
        (folder / "parity.json").write_text(json.dumps(parity))
        return runner.Model(folder, 1, unproven=True).proof

    assert said(passed=True, verdict="passed", left_out=[], faults=[]) == said(passed=True) == ""
    assert "is missing or broken" in said()
    for parity in ({"verdict": "failed", "faults": ["mAP differs"]}, {}):
        assert "does not find what its checkpoint finds" in said(passed=False, **parity)
        frames = [str(tmp_path / "frames"), "--out", str(tmp_path / "found")]
        for more in (runner.main, lambda argv: launch("predict", argv)):
            assert more([*frames, "--model", str(folder)]) == 2
            error = capsys.readouterr().err
            assert "with --unproven" in error and error.count("\n") == 1
    (tmp_path / "frames").mkdir()
    cv2.imwrite(str(tmp_path / "frames/a.png"), np.full((96, 96, 3), 200, np.uint8))
    assert runner.main([*frames, "--model", str(folder), "--unproven"]) == 0
    assert "does not find what its checkpoint finds" in capsys.readouterr().err
