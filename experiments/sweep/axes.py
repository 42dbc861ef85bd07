"""Parses axes such as `loc=-3:3:61`, `scale=log:0.1:10:21`, `n=10,100`, or `{from, to, points, log}` in TOML."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.common.settings import check_numbers, dotted, pairs, parse_pairs, split_pairs

COUNTS = ("n", "dimension")
KEYS = {"from", "to", "points", "log"}
MOST_POINTS = 2**24  # of one axis. Its values are held in memory

Axis = list[Any] | dict[str, Any]


def parse_axes(arguments: Sequence[str]) -> dict[str, Axis]:
    """Parses axes from the command line. Raises ValueError if one is malformed."""
    axes: dict[str, Axis] = {}
    for argument, name, text in split_pairs(arguments):
        if ":" not in text or not name:
            value = parse_pairs([argument])[name]
            axes[name] = value if isinstance(value, list) else [value]
            continue
        words = text.split(":")
        log = words[0] == "log"
        try:
            low, high, points = words[log:]
            axes[name] = {"from": float(low), "to": float(high), "points": int(points)} | ({"log": True} if log else {})
        except ValueError:
            raise ValueError(f"{argument!r} is not a range; write {name}=-3:3:61, or {name}=log:0.1:10:21") from None
    return axes


AXES = pairs(parse_axes, "NAME=VALUES ...")


def checked(axes: Mapping[str, Any]) -> dict[str, Axis]:
    """The axes, after checking them. A table that contains a list or another table is a container of parameters.

    Raises:
        ValueError: a range is incomplete, empty, or logarithmic and not positive; or the values are not a list.
    """
    inner = (list, tuple, Mapping)
    is_container = lambda x: (
        isinstance(x, Mapping) and not KEYS & set(x) and any(isinstance(y, inner) for y in x.values())
    )
    axes = dotted(axes, lambda axis: not is_container(axis))
    for name, axis in axes.items():
        if not isinstance(axis, Mapping):
            if not isinstance(axis, list | tuple):
                raise ValueError(
                    f"{name} = {axis!r} is not a list; write {name} = [{axis!r}], or a range {{from, to, points}}"
                )
            check_numbers(name, axis)
            continue
        if unknown := set(axis) - KEYS:
            raise ValueError(f"{name}: unknown key {sorted(unknown)[0]!r}; a range has from, to, points and log")
        if missing := {"from", "to", "points"} - set(axis):
            raise ValueError(f"{name}: the range lacks {sorted(missing)[0]!r}; give from, to and points")
        low, high, points = axis["from"], axis["to"], axis["points"]
        for end in (low, high):
            if isinstance(end, list | tuple):
                raise ValueError(f"{name}: {end!r} is not an end of a range; give a number")
            check_numbers(name, end)
        if low >= high:
            raise ValueError(f"{name}: from {low!r} to {high!r} is not a range; give two numbers, the smaller first")
        if type(points) is not int or not 2 <= points <= MOST_POINTS:
            raise ValueError(f"{name}: points = {points!r}; give an integer from 2 to {MOST_POINTS:,}")
        if not isinstance(axis.get("log", False), bool):
            raise ValueError(f"{name}: log = {axis['log']!r}; write true or false")
        if axis.get("log") and low <= 0:
            raise ValueError(f"{name}: a logarithmic range cannot start at {low!r}; start above 0")
    return dict(axes)


def values_of(name: str, axis: Axis) -> Any:
    """The values of an axis: the list as given, or an array."""
    if not isinstance(axis, dict):
        return axis
    space = np.geomspace if axis.get("log") else np.linspace
    values = space(axis["from"], axis["to"], axis["points"])
    return np.rint(values) if name in COUNTS else values
