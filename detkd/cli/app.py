"""The console script `detkd`: names the commands and turns failures into sentences.

Every command lives in a module of its own beside this file, as `main(argv) -> exit code`; the
launchers in `tools/` and the console script both come through `launch`.
"""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys

from detkd.errors import UserError

COMMANDS = {
    "convert": ("convert_dataset", "any annotation format to COCO, YOLO or VOC"),
    "check": ("check_dataset", "every problem of a data set, with its file"),
    "split": ("split_dataset", "train, val and test that share no sample"),
    "synth": ("make_synthetic", "rendered phytoplankton scenes as a VOC tree"),
    "train": ("train_det", "a detector: a teacher, a plain, a distilled or a self-distilled one"),
    "eval": ("eval_map", "COCO and VOC mAP of result files or of a checkpoint"),
    "export": ("export_model", "a network as ONNX, proven to say the same as its checkpoint"),
    "predict": ("predict", "what a detector finds on frames, a stack, a video or a camera"),
    "count": ("count_objects", "cells per litre, sizes and biovolumes from what was found"),
    "crop": ("crop_dataset", "the objects of a COCO data set as images with one label each"),
    "train-cls": ("train_cls", "a classifier: teacher, plain, distilled, or its own teacher"),
    "eval-cls": ("eval_cls", "accuracy by class, calibration, intervals and what is unknown"),
    "classify": ("classify", "what a classifier calls images, or the boxes of a detector"),
    "compare": ("compare_runs", "several runs side by side: a table and a picture"),
    "study": ("run_study", "many trainings with several seeds, and their table"),
    "bench": ("benchmark", "ratios of speed and cost, measured in one run"),
    "demo": ("demo", "the whole line on rendered scenes, in minutes"),
    "env": ("environment", "versions and devices, for a bug report"),
}


def launch(command: str, argv: list[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 (problems found), 2 (refused) or 130."""
    module = importlib.import_module(f"detkd.cli.{COMMANDS[command][0]}")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that is no text is told all the same
            stream.reconfigure(errors="backslashreplace")
    try:
        return int(module.main(sys.argv[1:] if argv is None else argv))
    except UserError as error:
        return _refuse(str(error))
    except KeyboardInterrupt as stop:
        print(f"\ninterrupted{': ' if stop.args else ''}{''.join(stop.args)}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output has left (`detkd ... | head`): nothing more to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:
        return _refuse(f"out of memory: {LOWER_MEMORY}")
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            place = error.filename or "the output folder"
            return _refuse(f"{place}: the disk is full; free some space, then run it again.")
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and error.filename:
            return _refuse(f"{error.filename}: {error.strerror}; choose a place that you can use.")
        if error.errno in NO_PLACE and error.filename:
            return _refuse(f"{error.filename}: {error.strerror}; choose another place.")
        raise
    except RuntimeError as error:
        # torch reports a full memory (on a GPU or not) and a full disk as RuntimeError.
        text = str(error)
        if "out of memory" in text or "can't allocate memory" in text:
            return _refuse(f"out of memory: {LOWER_MEMORY}")
        if "No space left on device" in text:
            return _refuse("the disk is full; free some space, then run it again.")
        raise


NO_PLACE = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOENT)
LOWER_MEMORY = "lower train.batch_size or data.image_size, or set data.cache: none."


def _refuse(sentence: str) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return 2


def main() -> int:
    """Entry point of the console script."""
    from detkd import __version__

    arguments = sys.argv[1:]
    if arguments and arguments[0] in COMMANDS:
        return launch(arguments[0], arguments[1:])
    if arguments and arguments[0] in ("--version", "-V"):
        print(f"detkd {__version__}")
        return 0
    lines = ["usage: detkd COMMAND ...", "", "commands:"]
    lines += [f"  {name:<9} {what}" for name, (_, what) in COMMANDS.items()]
    lines += ["", "detkd COMMAND --help tells all about one of them."]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print("\n".join(lines))
        return 0
    import difflib

    near = difflib.get_close_matches(arguments[0], COMMANDS, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else f"; there are {', '.join(COMMANDS)}."
    return _refuse(f"no command '{arguments[0]}'{hint}")
