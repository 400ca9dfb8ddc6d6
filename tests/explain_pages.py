"""What the explainer's tests read out of a saved page, without the explainer's own code."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def numbers_of(page: str) -> dict[str, Any]:
    """The JSON that the page shows."""
    found = re.search(r'<script type="application/json" id="numbers">(.*?)</script>', page, re.S)
    assert found
    return json.loads(found[1])


def values_of(array: dict[str, Any]) -> Array:
    """What the array holds before the first step, flat."""
    return np.array([float(v) for v in array["values"]])


def added_up(data: dict[str, Any], name: str) -> Array:
    """The result of a pass, from the products in its frames; padding is cut off.

    AssertionError where a product is not that of the two numbers in its own frame.
    """
    walk = next(p for p in data["passes"] if p["name"] == name)
    scene, roles = data["scenes"][walk["scene"]], ("drive", "window", "kernel")
    arrays = {r: data["arrays"][walk[r]] for r in roles if walk[r] is not None}
    values = {r: values_of(a) for r, a in arrays.items()}
    result = values[walk["target"]].copy()
    assert len(walk["terms"]) == len(scene["drivers"])
    for t, terms in enumerate(walk["terms"]):
        cells = {"drive": [scene["drivers"][t]] * len(terms)}
        for role, key in (("window", "places"), ("kernel", "taps")):
            if met := positions(scene[key], t):
                cells[role] = met
        for m, term in enumerate(map(float, terms)):
            factors = [values[r][cells[r][m]] for r in cells if r != walk["target"]]
            if walk["how"] != "product":
                factors.append(float(walk["shares"][t][m]))
            if factors[-1] or walk["how"] == "product":  # infinity times no share is nothing
                np.testing.assert_allclose(term, np.prod(factors), rtol=1e-4, atol=1e-30)
            target = cells[walk["target"]][m]
            if walk["target"] == "window":
                target = _source(target, arrays["window"], scene)
            if target is not None:
                result[target] += term
    return _inside(result, arrays[walk["target"]])


def positions(windows: dict[str, Any], t: int) -> list[int]:
    """The cells of one step: a start, and a pattern that other steps share."""
    return [windows["starts"][t] + cell for cell in windows["patterns"][windows["which"][t]]]


def _source(place: int, array: dict[str, Any], scene: dict[str, Any]) -> int | None:
    """The place inside the image that stands for this one: itself, unless it is padding."""
    n, c, h, w = np.unravel_index(place, array["shape"])
    h, w = scene["rowSource"][h], scene["columnSource"][w]
    return None if h < 0 or w < 0 else int(np.ravel_multi_index((n, c, h, w), array["shape"]))


def _inside(result: Array, array: dict[str, Any]) -> Array:
    result = result.reshape(array["shape"])
    if "size" in array:
        (top, left), (height, width) = array["origin"][2:], array["size"]
        result = result[:, :, -top : height - top, -left : width - left]
    return result.reshape(-1) if array["axes"] == 1 else result


def unread_in(data: dict[str, Any], name: str) -> tuple[list[int], list[int]]:
    """Rows and columns that the page marks in its array ``name``."""
    array = next(a for a in data["arrays"] if a["name"] == name and "unread" in a)
    return tuple(array["unread"])


def cells_in(text: str) -> set[str]:
    """The cells that a step's text names: x[0,0,1,2], ..."""
    return set(re.findall(r"\b[a-z]+\[[-\d,]+\]", text))
