"""Axes as they are written: `loc=-3:3:61`, `scale=log:0.1:10:21`, `n=10,100`; in TOML `{from, to, points, log}`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.common.settings import pairs, parse_pairs

COUNTS = ("n", "dimension")
KEYS = {"from", "to", "points", "log"}
MOST_POINTS = 2**31

Axis = list[Any] | dict[str, Any]


def parse_axes(arguments: Sequence[str]) -> dict[str, Axis]:
    """Raises ValueError for what is no axis."""
    axes: dict[str, Axis] = {}
    for argument in arguments:
        name, _, text = argument.partition("=")
        if ":" not in text:
            value = parse_pairs([argument])[name]
            axes[name] = value if isinstance(value, list) else [value]
            continue
        words = text.split(":")
        log = words[0] == "log"
        try:
            low, high, points = words[log:]
            axes[name] = {"from": float(low), "to": float(high), "points": int(points)} | ({"log": True} if log else {})
        except ValueError:
            raise ValueError(f"{argument!r} is no range; write {name}=-3:3:61, or {name}=log:0.1:10:21") from None
    return axes


AXES = pairs(parse_axes, "NAME=VALUES ...")


def checked(axes: Mapping[str, Any]) -> dict[str, Axis]:
    """The axes, if all of them are.

    Raises:
        ValueError: a range that lacks an end, is no range, or has no logarithm; values that are no list.
    """
    for name, axis in axes.items():
        if not isinstance(axis, Mapping):
            if not isinstance(axis, list | tuple):
                raise ValueError(
                    f"{name} = {axis!r} is no list; write {name} = [{axis!r}], or a range {{from, to, points}}"
                )
            continue
        if unknown := set(axis) - KEYS:
            raise ValueError(f"{name}: a range has no {sorted(unknown)[0]!r}; it has from, to, points and log")
        if missing := {"from", "to", "points"} - set(axis):
            raise ValueError(f"{name}: the range has no {sorted(missing)[0]!r}; write from, to and points")
        low, high, points = axis["from"], axis["to"], axis["points"]
        if not all(isinstance(x, int | float) and math.isfinite(x) for x in (low, high)) or low >= high:
            raise ValueError(f"{name}: from {low!r} to {high!r} is no range; give two numbers, the smaller first")
        if not isinstance(points, int) or not 2 <= points < MOST_POINTS:
            raise ValueError(f"{name}: points = {points!r}; give an integer of at least 2")
        if axis.get("log") and low <= 0:
            raise ValueError(f"{name}: a logarithmic range from {low!r}; begin above 0")
    return dict(axes)


def values_of(name: str, axis: Axis) -> Any:
    """The values: a list as it was given, or an array."""
    if not isinstance(axis, dict):
        return axis
    space = np.geomspace if axis.get("log") else np.linspace
    values = space(axis["from"], axis["to"], axis["points"])
    return np.rint(values) if name in COUNTS else values
