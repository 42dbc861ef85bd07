"""The random call that an audit repeats: slopes of the loss along directions, and central differences of its value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from rgrad.audits.subject import Subject
from rgrad.backend.compiling import right
from rgrad.comparison.costs import Program, keys_for, lanes_for
from rgrad.tracing.traced import depend

LARGE = 2**12  # if the directions have more numbers together, they are evaluated one after another
ENDS = np.array([-1.0, -0.5, 0.5, 1.0])  # where the value is evaluated, in steps
FINE = 1 / 16  # of a step, at most: the step of `fine`
STATISTICS = ("bias", "reference", "slope", "correction", "kink", "fine")
# The variance of `reference` relative to that of the value, for independent keys at the four ends and a step of 1:
# the weights of the values are those of `_extrapolated`.
INDEPENDENT = float(2 * ((4 / 3) ** 2 + (1 / 6) ** 2))


class Plan(NamedTuple):
    """The rows of an audit. All arrays have a leading axis of rows."""

    directions: Any
    """Shape (rows, size)."""
    outputs: Any
    """Order 2: the directions whose slope is differentiated, shape (rows, size). Order 1: shape (rows, 0)."""
    steps: Any
    """The step along each direction. A step of 1 moves the parameter that moves most by about its own size."""
    finest: Any
    """The step of `fine`."""
    apart: Any
    """Whether the values at the ends of a step have independent keys. Otherwise they have the same key."""


def statistics(subject: Subject, order: int, jumps: bool) -> Callable[[Plan, Array], Array]:
    """The random call: for each row, the slope of the loss, the differences of the value, and signs of their errors.

    V is the value along a direction (for order 2: the slope of the loss along `outputs`). Its differences are
    D(h) = (V(h) - V(-h)) / 2h and S(h) = (V(h) + V(-h) - 2 V(0)) / h. The statistics are

        slope                                   the derivative of the loss
        reference  = (4 D(h/2) - D(h)) / 3      Richardson's extrapolation, with an error of order h^4
        bias       = slope - reference
        correction = (D(h/2) - D(h)) / 3        what the extrapolation adds to D(h/2)
        kink       = S(h/2) - S(h) / 2          of order h^3 if the mean value is smooth, and up to half of the jump if
                                                its derivative jumps closer than h
        fine       = D(h') - reference          for a small h': not 0 if the value changes at a finer scale than h

    Args:
        jumps: whether the value may jump along a step. Then `fine` would be too noisy to show anything, and is 0.

    Returns:
        A function of a plan and a key that returns `STATISTICS` for all rows, and then the value: shape (6 rows + 1,).
    """
    theta = subject.theta

    def slope_of(function: Any, key: Array, u: Array) -> Array:
        return jnp.sum(jax.grad(function)(theta, key) * u)

    def value(at: Array, key: Array, u: Array) -> Array:
        if order == 1:
            return subject.value(at, key)
        return jnp.sum(jax.grad(subject.loss)(at, key) * u)

    def row(one: Any, key: Array) -> tuple[Array, Array]:
        direction, u, step, finest, apart = one
        at = lambda i, far: value(
            theta + far.astype(theta.dtype) * direction, jax.random.fold_in(key, jnp.where(apart, i, 0)), u
        )
        far = step * jnp.asarray(ENDS, theta.dtype)
        far = far if jumps else jnp.concatenate([far, jnp.stack([-finest, finest])])
        ends = jax.vmap(at)(jnp.arange(1, far.size + 1), far)
        slope = slope_of(lambda t, k: value(t, k, u), key, direction) if order == 2 else jnp.zeros(())
        return ends, slope

    def call(plan: Plan, key: Array) -> Array:
        first = jax.random.fold_in(key, 0)
        finest = jnp.minimum(plan.finest, FINE * plan.steps)
        given = plan.directions, plan.outputs, plan.steps, finest, plan.apart
        each = lambda one: row(one, key)
        ends, slopes = lax.map(each, given) if plan.directions.size > LARGE else jax.vmap(each)(given)
        if order == 1:
            gradient = jax.grad(subject.loss)(theta, first)
            slopes = jnp.sum(plan.directions * gradient, 1)
            middle = subject.value(theta, first)
            middles = middle
        else:
            middles = jax.vmap(lambda u: value(theta, first, u))(plan.outputs)
            middle = middles[0]
        low, left, right_, high, *fine = ends.T
        h = plan.steps
        near, far = (right_ - left) / h, (high - low) / (2 * h)
        reference = _extrapolated(near, far)
        bend = lambda a, b, width: (a + b - 2 * middles) / width
        found = (
            slopes - reference, reference, slopes, (near - far) / 3,
            bend(right_, left, h / 2) - bend(high, low, h) / 2,
            (fine[1] - fine[0]) / (2 * finest) - reference if fine else jnp.zeros_like(h),
        )  # fmt: skip
        return jnp.concatenate([*(x.astype(theta.dtype) for x in found), middle[None].astype(theta.dtype)])

    return call


def _extrapolated(near: Any, far: Any) -> Any:
    return (4 * near - far) / 3


def compile_plan(call: Callable[[Any, Array], Array], plan: Any, key: Array) -> Program:
    """Compiles many calls into one program. Unlike in `compile_many`, they share one copy of the plan.

    `Program.parameters` is the plan. Replace it to measure other directions, steps or keys, in the same program.
    """
    closed = jax.make_jaxpr(call)(plan, key)
    lanes = lanes_for(closed)
    keys = keys_for(key, np.uint32(0), np.uint32(0), lanes)
    run = jax.jit(jax.vmap(call, (None, 0))).lower(plan, keys).compile(compiler_options=right())
    of_key = [False] * (len(closed.in_avals) - len(jax.tree.leaves(key))) + [True] * len(jax.tree.leaves(key))
    # It is constant if no output depends on the key.
    return Program(run, lanes, plan, 0.0, not any(depend(closed.jaxpr, of_key)))
