"""What a person can mend ends in one sentence and exit code 2, never in a traceback."""

import json
import os
import subprocess
import sys

import pytest
import torch

from detkd.cli.app import launch


def refused(capsys, command, *argv):
    assert launch(command, list(map(str, argv))) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "Traceback" not in said
    return said


def test_an_unknown_key_of_the_file_names_the_nearest(tiny, capsys):
    said = refused(capsys, "train", "--config", tiny(train__epoch=3))
    assert "unknown key 'train.epoch'; did you mean 'train.epochs'?" in said


def test_an_unknown_option_names_the_nearest(tiny, capsys):
    said = refused(capsys, "train", "--config", tiny(), "--train.batchsize", "3")
    assert "did you mean 'train.batch_size'?" in said
    said = refused(capsys, "train", "--config", tiny(), "--distill.loses.weight", "3")
    assert "did you mean 'distill.losses'?" in said  # its keys cannot be given so


def test_a_wrong_type_names_key_and_value(tiny, capsys):
    said = refused(capsys, "train", "--config", tiny(train__epochs="many"))
    assert "epochs" in said
    assert "many" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"heads": "steal"},
            "distill.heads: expected one of ['none', 'inherit', 'freeze', 'joint'",
        ),
        (
            {"losses": [{"name": "pkd", "at": ["p3"], "weight": "much"}]},
            "distill.losses.weight: expected float, got 'much'",
        ),
        ({"losses": [{"name": "pkd"}]}, "distill.losses: names no 'at', which it needs"),
        (
            {"losses": [{"name": "pkd", "at": "p3"}]},
            "distill.losses.at: expected list, got 'p3'",
        ),
        ({"heads": {"neck": "steal"}}, "distill.heads.neck: expected one of ['none', 'inherit', "),
        ({"freeze_until": "x"}, "distill.freeze_until: expected float, got 'x'"),
    ],
)
def test_what_fits_none_of_several_types_is_named(tiny, capsys, change, said):
    config = tiny(distill={"teacher": "t.pt", **change})
    assert said in refused(capsys, "train", "--config", config)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--data.image_size=0", "data.image_size: 0 makes no sense; it is at least 32"),
        ("--train.batch_size=0", "train.batch_size: 0 makes no sense; it is at least 1."),
        ("--train.epochs=-3", "train.epochs: -3 makes no sense"),
        ("--train.lr=-0.1", "train.lr: -0.1 makes no sense; it is at least 0."),
        ("--model.nms=2", "model.nms: 2.0 makes no sense; it is at least 0 and at most 1."),
    ],
)
def test_a_number_that_makes_no_sense_is_refused_before_anything_begins(
    tiny, tmp_path, capsys, option, said
):
    argv = ["--config", str(tiny()), "--run", str(tmp_path / "run"), option]
    assert launch("train", argv) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_folder_that_cannot_be_one(tiny, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for place in ("file", "file/below"):
        assert launch("train", ["--config", str(tiny()), "--run", str(tmp_path / place)]) == 2
        assert "choose another place" in capsys.readouterr().err


@pytest.mark.parametrize(("side", "said"), [("train", "learned from"), ("val", "judged on")])
def test_data_without_a_box_are_refused(tiny, tmp_path, scenes, capsys, side, said):
    tree = json.loads((scenes / "all.json").read_text())
    (scenes / "empty.json").write_text(json.dumps({**tree, "annotations": []}))
    argv = ["--config", str(tiny()), f"--data.{side}", str(scenes / "empty.json")]
    assert f"holds no box to be {said}" in refused(capsys, "train", *argv)


def test_an_unknown_key_inside_a_loss_is_refused(tiny, capsys):
    distill = {"teacher": "x.pt", "losses": [{"name": "kl", "at": ["roi.logits"], "wieght": 1}]}
    said = refused(capsys, "train", "--config", tiny(distill=distill))
    assert "unknown key 'distill.losses.wieght'" in said


def test_a_missing_config_or_data_file(tiny, capsys):
    assert "no such config file" in refused(capsys, "train", "--config", "nowhere.yaml")
    said = refused(capsys, "train", "--config", tiny(data__train="nowhere.json"))
    assert "nowhere.json: no such file" in said


def test_yaml_that_is_none_or_hostile(tmp_path, capsys):
    path = tmp_path / "x.yaml"
    path.write_text("a: [1")
    assert "is not YAML" in refused(capsys, "train", "--config", path)
    path.write_text("a: !!python/object/apply:os.system ['true']")
    assert "is not YAML" in refused(capsys, "train", "--config", path)


def test_a_gpu_that_is_not_there(tiny, tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    said = refused(capsys, "train", "--config", tiny(train__device="cuda"), "--run", tmp_path / "r")
    assert "torch sees no GPU" in said


def test_a_teacher_that_is_missing_broken_hostile_or_foreign(tiny, tmp_path, capsys):
    def said(teacher):
        distill = {"teacher": str(teacher), "losses": []}
        return refused(capsys, "train", "--config", tiny(distill=distill), "--run", tmp_path / "r")

    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    assert "no such file" in said(tmp_path / "none.pt")
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04")
    assert "cannot be read as weights" in said(tmp_path / "cut.pt")
    torch.save({"weights": Bomb()}, tmp_path / "bomb.pt")
    assert "it could run code" in said(tmp_path / "bomb.pt")
    assert not (tmp_path / "ran").exists()
    torch.save({"layer": torch.zeros(1)}, tmp_path / "plain.pt")
    assert "is no checkpoint of detkd" in said(tmp_path / "plain.pt")
    assert not (tmp_path / "r").exists()


def test_a_checkpoint_whose_weights_are_of_another_network(tiny, tmp_path, capsys, scenes):
    assert (
        launch("train", ["--config", str(tiny(train__epochs=1)), "--run", str(tmp_path / "a")]) == 0
    )
    checkpoint = torch.load(tmp_path / "a/best.pt", weights_only=True)
    checkpoint["config"]["model"]["backbone"] = "resnet18"
    torch.save(checkpoint, tmp_path / "other.pt")
    capsys.readouterr()
    command = ["--gt", scenes / "all.json", "--checkpoint", tmp_path / "other.pt"]
    assert "its weights are not those of the 'resnet18' detector" in refused(
        capsys, "eval", *command
    )


def test_a_run_that_exists_is_not_overwritten(tiny, tmp_path, capsys):
    command = ["--config", str(tiny(train__epochs=1)), "--run", str(tmp_path / "a")]
    assert launch("train", command) == 0
    capsys.readouterr()
    assert "holds a run already; --resume goes on" in refused(capsys, "train", *command)
    said = refused(capsys, "train", *command, "--resume", "--train.lr", "0.5")
    assert "was begun with train.lr" in said


def test_another_set_of_classes_is_refused(tiny, tmp_path, scenes, capsys):
    import json

    document = json.loads((scenes / "all.json").read_text())
    document["categories"][0]["name"] = "other"
    document["info"]["detkd"]["image_root"] = os.path.relpath(scenes / "scenes", tmp_path)
    (tmp_path / "other.json").write_text(json.dumps(document))
    said = refused(capsys, "train", "--config", tiny(data__val=str(tmp_path / "other.json")))
    assert "its classes are not those of" in said
    assert (
        launch("train", ["--config", str(tiny(train__epochs=1)), "--run", str(tmp_path / "a")]) == 0
    )
    capsys.readouterr()
    command = ["--gt", tmp_path / "other.json", "--checkpoint", tmp_path / "a/best.pt"]
    assert "knows 8 classes and" in refused(capsys, "eval", *command)


def test_a_full_disk_and_a_full_memory_end_in_a_sentence(monkeypatch, capsys):
    import errno

    import detkd.cli.environment as command

    for error, said in (
        (OSError(errno.ENOSPC, "No space left on device", "runs/x"), "the disk is full"),
        (MemoryError(), "lower train.batch_size"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "lower train.batch_size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "lower train.batch_size"),
    ):

        def fail(argv, error=error):
            raise error

        monkeypatch.setattr(command, "main", fail)
        assert said in refused(capsys, "env")


@pytest.mark.parametrize("argv", [["tran"], ["--nonsense"]])
def test_an_unknown_command(argv):
    code = "from detkd.cli.app import main; raise SystemExit(main())"
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no command")


@pytest.mark.parametrize(
    "command",
    [
        *("convert", "check", "split", "synth", "train", "eval", "bench", "demo", "env"),
        *("crop", "train-cls", "eval-cls", "export", "count", "classify"),
    ],
)
def test_every_command_has_help_without_loading_torch(command):
    code = (
        "import sys\nfrom detkd.cli.app import launch\n"
        f"try:\n    launch({command!r}, ['--help'])\nexcept SystemExit:\n    pass\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"usage: detkd {command}" in done.stdout
    assert done.stdout.rstrip().endswith("False"), done.stdout[-300:]


def test_the_config_page_is_that_of_the_dataclasses():
    from pathlib import Path

    from detkd.cli.config_page import page

    written = Path(__file__).parents[2] / "docs/config.md"
    assert written.read_text() == page(), "run 'make docs'"


@pytest.mark.parametrize(
    ("command", "arguments", "said"),
    [
        ("train", ["--config", "configs/marine/student.yaml"], "is a key of 'detkd train-cls'"),
        ("train-cls", ["--config", "configs/bccd/student.yaml"], "is a key of 'detkd train'"),
        (
            "train-cls",
            ["--distill.losses", "[{name: kl, at: [logits], wieght: 4}]"],
            "did you mean 'distill.losses.weight'?",
        ),
        ("train-cls", ["--distill.losses=[{nam: kl}]"], "did you mean 'distill.losses.name'?"),
        ("train-cls", ["--data.leave_out", "Snow"], "expected a list, such as [Snow]"),
    ],
)
def test_keys_of_another_command_and_inside_a_flag(capsys, command, arguments, said):
    if "--config" not in arguments:
        arguments = ["--config", "configs/marine/student.yaml", *arguments]
    assert launch(command, arguments) == 2
    assert said in capsys.readouterr().err
