"""Rendered brightfield scenes of phytoplankton: the embedded sample data."""

from detkd.data.synthetic.scene import Scene, SceneObject, render_scene
from detkd.data.synthetic.taxa import DEMO_TAXA, TAXA
from detkd.data.synthetic.tree import write_scenes, write_sheet

__all__ = [
    "DEMO_TAXA",
    "TAXA",
    "Scene",
    "SceneObject",
    "render_scene",
    "write_scenes",
    "write_sheet",
]
