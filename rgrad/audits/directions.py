"""The directions in which a gradient is audited: single coordinates if there are few, otherwise directions over many."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from rgrad.audits.subject import Subject

FEW = 24  # up to this many coordinates are audited one by one
LEAVES = 6  # with more coordinates, the most parameters that have directions of their own
ROUNDED = 3e3  # units in the last place of a parameter: a smaller step loses too many digits when it is added
LEAST = 1e-9  # the smallest step for a parameter of exactly 0
FINEST = 1e-3  # the step that shows what a larger one may miss
WHOLE = 2  # random directions over all parameters


class Directions(NamedTuple):
    """Rows of the audit."""

    vectors: np.ndarray[Any, Any]
    """Shape `(rows, size)`. A step of 1 moves a coordinate by its size. Along other directions, it moves the coordinate that
    moves most by their median size. If these sizes are below 1, it moves them by 1."""
    names: tuple[str, ...]
    parameters: tuple[str, ...]
    """The parameter to which each row belongs; empty if it belongs to all."""

    def smallest_steps(self, subject: Subject) -> np.ndarray[Any, Any]:
        """A smaller step is rounded too much when it is added to the parameters: shape `(rows,)`."""
        theta = np.abs(np.asarray(subject.theta, np.float64))
        moved = np.where(self.vectors != 0, theta, 0).max(1) / np.abs(self.vectors).max(1)
        return np.maximum(ROUNDED * subject.eps * moved, LEAST)


def directions_of(subject: Subject, mean: np.ndarray[Any, Any] | None, rng: np.random.Generator) -> Directions:
    """Every coordinate, if there are at most `FEW`.

    Otherwise two random directions over all coordinates and, for each of the parameters, the direction of its mean
    gradient, the coordinate with the largest gradient and, if some gradients are exactly 0, a random direction over
    those. If there are more than `LEAVES` parameters, it takes those with the smallest gradients (a cut makes them
    small), with the largest, and with the most elements.

    Args:
        mean: the mean gradient of a first sample, shape `(size,)`. None if there are few coordinates.
    """
    theta = np.asarray(subject.theta, np.float64)
    if mean is None:
        owners = tuple(name for name, size in subject.sizes.items() for _ in range(size))
        return Directions(np.diag(np.maximum(np.abs(theta), 1.0)), tuple(subject.labels), owners)
    signs = lambda mask: rng.choice([-1.0, 1.0], theta.size) * mask
    rows: list[tuple[np.ndarray[Any, Any], str, str]] = [
        (signs(1.0), f"all parameters, random direction {i + 1}", "") for i in range(WHOLE)
    ]
    begin = np.cumsum([0, *subject.sizes.values()])
    spans = {name: slice(begin[i], begin[i + 1]) for i, name in enumerate(subject.sizes)}
    for name in _chosen(subject, spans, mean):
        inside = np.zeros(theta.size)
        inside[spans[name]] = 1.0
        own = mean * inside
        zero = inside * (mean == 0)
        largest = int(np.argmax(np.abs(own)))
        if own[largest] != 0:
            rows.append((own / abs(own[largest]), f"{name}, along its gradient", name))
            rows.append((np.eye(1, theta.size, largest)[0], subject.labels[largest], name))
        if count := int(zero.sum()):
            some = f"{name}, its {count:,} elements without gradient" if own[largest] else f"{name}, random direction"
            rows.append((signs(zero), some, name))
    size = max(1.0, float(np.median(np.abs(theta))))
    vectors = np.array([row[0] for row in rows]) * size
    return Directions(vectors, tuple(row[1] for row in rows), tuple(row[2] for row in rows))


def _chosen(subject: Subject, spans: dict[str, slice], mean: np.ndarray[Any, Any]) -> list[str]:
    """The names of the parameters with directions of their own."""
    names = list(subject.sizes)
    if len(names) <= LEAVES:
        return names
    rms = {name: float(np.sqrt(np.mean(mean[spans[name]] ** 2))) for name in names}
    orders = [sorted(names, key=lambda n: rms[n]), sorted(names, key=lambda n: -rms[n]),
              sorted(names, key=lambda n: -subject.sizes[n])]  # fmt: skip
    picked = dict.fromkeys(name for rank in zip(*orders, strict=True) for name in rank)
    return list(picked)[:LEAVES]
