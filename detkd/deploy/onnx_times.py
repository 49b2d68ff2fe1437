"""Where the time of an exported detector in ONNX Runtime goes: its own profile, part by part.

The profile tells the time of each node of the graph as the runtime has optimised it, in which
nodes are fused and new ones reorder data. A node that comes from a module carries that module's
name in the file that the exporter wrote, and the runtime keeps the names of the tensors; a node
without a module belongs to the first part that needs what it gives.
"""

from __future__ import annotations

import ast
import json
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from detkd.deploy.onnx_model import INPUT, needed, write_onnx
from detkd.models.costs import PARTS
from detkd.models.detector import Detector

# Modules by the end of their names: who holds the heads may change, the heads' names do not.
MODULE = {
    part: re.compile(rf"(?:^|\.)(?:{names})(?:\.|$)")
    for part, names in {
        "backbone": r"backbone\.body",
        "neck": r"backbone\.neck",
        "rpn_head": r"rpn[._]head",
        "roi_head": r"box_roi_pool\.reduce|box_head|box_predictor",
    }.items()
}


class OnnxTimes:
    """A detector's exported graph in ONNX Runtime, fully optimised, on the CPU, and profiled.

    `times` ends the profile: nothing runs after it.
    """

    def __init__(self, detector: Detector, folder: Path, *, threads: int = 1) -> None:
        runtime = needed()
        self.folder = Path(tempfile.mkdtemp(dir=folder))
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # it warns of the file that it is asked for below
        options.enable_profiling = True
        options.profile_file_prefix = str(self.folder / "profile")
        options.optimized_model_filepath = str(self.folder / "optimised.onnx")
        write_onnx(detector, self.folder / "model.onnx")
        self.session = runtime.InferenceSession(
            str(self.folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, frame: np.ndarray) -> None:
        """Run it on one frame [3, H, W]."""
        self.session.run(None, {INPUT: frame[None]})

    def times(self) -> list[dict[str, float]]:
        """Seconds of each part in each run, in their order.

        The rest is what padding and normalising take, and the runtime itself between the nodes.
        """
        import onnx

        events = json.loads(Path(self.session.end_profiling()).read_text())
        part_of = parts_of_nodes(
            onnx.load(self.folder / "model.onnx"), onnx.load(self.folder / "optimised.onnx")
        )
        return times_of_runs(events, part_of)


def times_of_runs(events: Iterable[dict[str, Any]], part_of: dict[str, str]) -> list[dict]:
    """Seconds by part of each run in a profile of ONNX Runtime, which counts in µs."""
    # A run begins before its nodes, if not by a whole µs, and is written down after them.
    ordered = sorted(events, key=lambda event: (event["ts"], event["name"] != "model_run"))
    runs: list[dict[str, float]] = []
    end = -1
    for event in ordered:
        if event["name"] == "model_run":
            runs.append({**dict.fromkeys(PARTS, 0.0), "rest": event["dur"] / 1e6})
            end = event["ts"] + event["dur"]
        elif event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            assert event["ts"] <= end, "a node runs outside of a run"
            seconds, name = event["dur"] / 1e6, event["name"].removesuffix("_kernel_time")
            part = part_of.get(name, "rest")
            if part != "rest":
                runs[-1][part] += seconds
                runs[-1]["rest"] -= seconds
    return runs


def parts_of_nodes(written: Any, optimised: Any) -> dict[str, str]:
    """The part of each node of the optimised graph, by the node's name.

    Of the nodes without a module: what the backbone needs is the rest (padding, normalising), what
    a neck or an RPN head needs is theirs. What brings the levels to RoIAlign is RoIAlign's, what
    brings it the boxes is the proposals', and what lies between it and the RoI head is its own.
    All that is left makes the detections.
    """
    of_tensor = _modules_of_tensors(written)
    nodes = list(optimised.graph.node)
    part_of: dict[str, str] = {}
    for node in nodes:
        # A convolution in the runtime's own layout is called after the tensor that it gives.
        names = [*node.output, node.name.removesuffix("_nchwc")]
        found = [of_tensor[name] for name in names if name in of_tensor]
        if found:
            part_of[node.name] = found[0]
    maker = {name: node for node in nodes for name in node.output}
    aligns = [node for node in nodes if node.op_type == "RoiAlign"]

    def claim(wanted: Iterable[str], part: str) -> None:
        """Give `part` to every node behind these tensors that has none, up to those that have."""
        waiting = list(wanted)
        while waiting:
            node = maker.get(waiting.pop())
            if node is not None and node.name not in part_of:
                part_of[node.name] = part
                waiting += node.input

    def inputs_of(part: str) -> list[str]:
        return [name for node in nodes if part_of.get(node.name) == part for name in node.input]

    claim(inputs_of("backbone"), "rest")
    for part in ("neck", "rpn_head"):
        claim(inputs_of(part), part)
    claim([node.input[0] for node in aligns], "roi_align")
    claim([name for node in aligns for name in node.input[1:]], "proposals")
    claim(inputs_of("roi_head"), "roi_align")
    claim([output.name for output in optimised.graph.output], "detections")
    return {node.name: part_of.get(node.name, "rest") for node in nodes}


def _modules_of_tensors(written: Any) -> dict[str, str]:
    """The part of each tensor that a module with weights gives, by the exporter's notes."""
    found: dict[str, str] = {}
    for node in written.graph.node:
        notes = {note.key: note.value for note in node.metadata_props}
        scopes = ast.literal_eval(notes.get("pkg.torch.onnx.name_scopes", "[]"))
        for part, pattern in MODULE.items():
            if any(pattern.search(scope) for scope in scopes[:-1]):
                found |= dict.fromkeys(node.output, part)
    return found
