"""Bodies that a cell is taken for, and their volumes.

l is the longer side of the box, w the shorter one, t the depth that no picture shows, in µm.
Formulas of Hillebrand et al., J. Phycol. 35, 1999, and Sun and Liu, J. Plankton Res. 25, 2003,
written for what a box gives. Solids of revolution have no depth of their own. Each function's
docstring begins with its formula, which the page shows.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable

from detkd.deploy.counting.errors import CountingError
from detkd.deploy.counting.wording import shown


def sphere(length: float, width: float, depth: float) -> float:
    """π/6 d³, d = √(l w)"""
    return math.pi / 6 * (length * width) ** 1.5


def half_sphere(length: float, width: float, depth: float) -> float:
    """π/12 l³, seen from the side"""
    return math.pi / 12 * length**3


def prolate_spheroid(length: float, width: float, depth: float) -> float:
    """π/6 l w²"""
    return math.pi / 6 * length * width**2


def oblate_spheroid(length: float, width: float, depth: float) -> float:
    """π/6 l² w, seen from the side"""
    return math.pi / 6 * length**2 * width


def ellipsoid(length: float, width: float, depth: float) -> float:
    """π/6 l w t"""
    return math.pi / 6 * length * width * depth


def cylinder(length: float, width: float, depth: float) -> float:
    """π/4 l w², a rod seen from the side"""
    return math.pi / 4 * length * width**2


def disc(length: float, width: float, depth: float) -> float:
    """π/4 l² w, a flat cylinder seen from the side"""
    return math.pi / 4 * length**2 * width


def disc_face(length: float, width: float, depth: float) -> float:
    """π/4 l w t, a flat cylinder of height t seen from above"""
    return math.pi / 4 * length * width * depth


def capsule(length: float, width: float, depth: float) -> float:
    """π w² (l/4 − w/12), a cylinder with two half spheres, l with them"""
    return math.pi * width**2 * (length / 4 - width / 12)


def cylinder_two_cones(length: float, width: float, depth: float) -> float:
    """π/4 w² (l − 2w/3), a cylinder with two cones of height w/2, l with them"""
    return math.pi / 4 * width**2 * (length - 2 * width / 3)


def cone(length: float, width: float, depth: float) -> float:
    """π/12 l w²"""
    return math.pi / 12 * length * width**2


def double_cone(length: float, width: float, depth: float) -> float:
    """π/12 l w², two cones base to base, l from tip to tip"""
    return math.pi / 12 * length * width**2


def cone_half_sphere(length: float, width: float, depth: float) -> float:
    """π/12 w² (l + w/2), a half sphere on a cone, l with both"""
    return math.pi / 12 * width**2 * (length + width / 2)


def box(length: float, width: float, depth: float) -> float:
    """l w t"""
    return length * width * depth


def elliptic_prism(length: float, width: float, depth: float) -> float:
    """π/4 l w t, in whatever view"""
    return math.pi / 4 * length * width * depth


def half_elliptic_prism(length: float, width: float, depth: float) -> float:
    """π/4 l w t, on half an ellipse of half-axes l/2 and w"""
    return math.pi / 4 * length * width * depth


def triangular_prism(length: float, width: float, depth: float) -> float:
    """√3/4 l w², on an equilateral triangle of side w"""
    return math.sqrt(3) / 4 * length * width**2


def parallelogram_prism(length: float, width: float, depth: float) -> float:
    """1/2 l w t"""
    return length * width * depth / 2


def biconcave_disc(length: float, width: float, depth: float) -> float:
    """0.1966 d³, d = √(l w): a red blood cell of 7.82 µm has 94 µm³ (Evans and Fung 1972)"""
    return 94 / 7.82**3 * (length * width) ** 1.5


# (length, width, depth) in µm to a volume in µm³.
Shape = Callable[[float, float, float], float]
SHAPES: dict[str, Shape] = {
    shape.__name__: shape
    for shape in (
        *(sphere, half_sphere, prolate_spheroid, oblate_spheroid, ellipsoid),
        *(cylinder, disc, disc_face, capsule, cylinder_two_cones),
        *(cone, double_cone, cone_half_sphere),
        *(box, elliptic_prism, half_elliptic_prism, triangular_prism, parallelogram_prism),
        biconcave_disc,
    )
}
# What no other shape was named for.
USUAL_SHAPE = "prolate_spheroid"
# Names of the same bodies in the lists of HELCOM (Olenina et al. 2006) and Hillebrand et al.
ALIASES = {
    "rotational_ellipsoid": "prolate_spheroid",
    "flattened_ellipsoid": "ellipsoid",
    "oval_cylinder": "elliptic_prism",
    "prism_on_elliptic_base": "elliptic_prism",
    "half_prism_on_elliptic_base": "half_elliptic_prism",
    "parallelepiped": "box",
    "rectangular_box": "box",
    "prism_on_triangle_base": "triangular_prism",
    "prism_on_parallelogram_base": "parallelogram_prism",
    "two_cones": "double_cone",
    "2_cones": "double_cone",
    "cylinder_2_half_spheres": "capsule",
    "cylinder_2_cones": "cylinder_two_cones",
}


def named_shape(name: str, where: str) -> str:
    """The name that SHAPES has for it.

    Raises:
        CountingError: there is no such shape.
    """
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    plain = ALIASES.get(plain, plain)
    if plain in SHAPES:
        return plain
    near = difflib.get_close_matches(plain, SHAPES, 1)
    hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(SHAPES)}."
    raise CountingError(f"{where}: no shape '{shown(name)}'; {hint}")


def equivalent_diameter(volume: float) -> float:
    """Diameter of the sphere of the same volume: ESD = (6V/π)^(1/3)."""
    return float((6 * volume / math.pi) ** (1 / 3))
