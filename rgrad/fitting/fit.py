"""`fit`: stochastic gradient descent on a random loss, as one pure function."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from rgrad.backend.keys import check_counted_key
from rgrad.backend.noise import fold_in
from rgrad.backend.not_finite import WHY_NAN
from rgrad.backend.programs import compiled
from rgrad.fitting.checks import check_loss
from rgrad.fitting.kept import all_finite, keep_floats, like
from rgrad.parameters import WHOLE
from rgrad.parts import Rest, split
from rgrad.printing import SHOWN, Printed, as_table, is_traced, more

if TYPE_CHECKING:
    import optax

Params = Any
State = Any


class Trace(NamedTuple):
    """The record of a fit. Every array has a leading axis over the steps."""

    loss: Array
    """The loss before the step, as one random estimate."""
    params: Params
    """The parameters before the step, or what `record` keeps of them."""
    gradient_norm: Array
    """The Euclidean norm of the gradient estimate, over all parameters together."""


class _FitFields(NamedTuple):
    params: Params
    before: Params
    """The trained parameters one step earlier. The fit returns to them if the loss at `params` is not finite."""
    state: State
    optimizer_state: Any
    """In a fit that has stopped, its floats keep the values from that step, while its counters continue."""
    step: Array
    """The number of steps so far, including those after a stop."""
    stopped_at: Array
    """The number of the step that was refused. Nothing changes after it. -1 if no step was refused."""
    diverged: Array
    """Whether it was refused because the loss, its gradient, the new parameters or their record were not finite."""
    trace: Trace
    """The record of the latest call's steps."""


class Fit(Printed, _FitFields):
    """The state of a fit. To continue it, pass it to `fit` in place of the parameters. `print` summarises it.

    Example:
        >>> import optax
        >>> fitted = rgrad.fit(lambda theta, key: (theta - 3) ** 2, 0.0, optax.sgd(0.1), key, 100)
        >>> print(fitted.trace.loss[0], fitted.step, fitted.diverged)
        9.0 100 False
    """

    __slots__ = ()

    def __str__(self) -> str:
        if is_traced(self) or jnp.ndim(self.step):
            return f"Fit, traced, or of several fits: {jax.tree.map(jnp.shape, self.params)}"
        loss = self.trace.loss
        lines = (
            [] if loss is None else [f"loss {loss[0]:.4g} at first, {loss[-1]:.4g} at last (one random estimate each)"]
        )
        found = jax.tree_util.tree_leaves_with_path(self.params)
        value = lambda x: (
            np.round(x, 4) if isinstance(x, Array | np.ndarray) and jnp.issubdtype(x.dtype, jnp.floating) else x
        )
        named = [
            (jax.tree_util.keystr(path, simple=True, separator=".") or WHOLE, " ".join(str(value(leaf)).split()))
            for path, leaf in found
        ]
        table = as_table(("parameter", "value"), [(name, text[:60]) for name, text in named[:SHOWN]], left=2)
        return "\n".join(
            [f"Fit after {int(self.step):,} steps", *lines, table, *more(len(named)), *filter(None, [self.remark])]
        )

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One row for each step of the trace: its number, the loss and the norm of the gradient. For a single fit."""
        loss, norm = (np.asarray(x) for x in (self.trace.loss, self.trace.gradient_norm))
        first = int(self.step) - len(loss)
        return [
            {"step": first + i, "loss": float(a), "gradient_norm": float(b)}
            for i, (a, b) in enumerate(zip(loss, norm, strict=True))
        ]

    @property
    def remark(self) -> str:
        """Why the fit diverged; empty if it did not. For a single fit, not for several under `jax.vmap`."""
        return f"stopped at step {int(self.stopped_at)}: not finite; {WHY_NAN}" if self.diverged else ""


def everything(params: Params) -> Params:
    """The default of `record` in `fit`: keeps all parameters."""
    return params


NOTHING = Trace(None, None, None)  # type: ignore[arg-type]


def fit(
    loss: Callable[..., Any],
    params: Params | Fit,
    optimizer: optax.GradientTransformation,
    key: Array,
    steps: int,
    state: State = None,
    *,
    feasible: Callable[[Params], Array] | None = None,
    record: Callable[[Params], Any] | None = everything,
) -> Fit:
    """Minimises `E[loss]` by `steps` steps of `optimizer`, with gradient estimates from `jax.grad` of the loss.

    `fit` is a pure function, one `lax.scan`. `jax.vmap` over keys runs many fits in one program. The key of step t
    depends only on `key` and t. A long run can therefore be split into pieces, with the same result:

        half = rgrad.fit(loss, params, optimizer, key, 250)
        whole = rgrad.fit(loss, half, optimizer, key, 250)

    A step is refused if it would leave the feasible set or make a number infinite or nan. If the loss or its gradient is
    not finite at the parameters that a step has reached, the fit returns to those before that step. From then on, the
    parameters and the state do not change. The trace repeats the last values, `stopped_at` is the number of that step, and
    `remark` names possible causes. The trace contains no nan, unless the very first loss or gradient is not finite:
    there is then no value to repeat.

    Outside `jax.jit`, also under `jax.vmap`, the call is compiled with its own compiler options and is up to twice as
    fast. Calls from two threads use two cores. One program is compiled for each `loss`, `optimizer`, `feasible`,
    `record` and `steps`. Pass the same objects again to reuse it: each `lambda` and each `optax.adam(0.1)` is a new one.

    Args:
        loss: `loss(params, key) -> scalar`. With a state (a moving-average baseline, a trained control variate):
            `loss(params, state, key) -> (scalar, state)`.
        params: any pytree, e.g. a module of Equinox or NNX; or an earlier `Fit` to continue, including its state. Floats
            and arrays of floats are trained. Arrays of integers or bools, PRNG keys, functions and texts are returned
            unchanged.
        optimizer: any optax optimizer, also one that needs the value of the loss or evaluates it again, e.g.
            `optax.lbfgs()` or `optax.contrib.reduce_on_plateau()`. It evaluates it with the key of the step.
        key: one PRNG key. Pass the same key for the later pieces of a run.
        steps: a Python int, at least 1.
        state: a pytree of arrays that the loss changes. None if the loss has no state. It is not for data: let the loss
            close over those.
        feasible: maps the parameters to a boolean. None: every point is feasible.
        record: maps the parameters to what the trace keeps at each step. By default everything. None: no trace at all,
            which saves time and memory if only the end of many fits is needed.

    Returns:
        A `Fit`: `params`, `state` and `optimizer_state` at the end; `step`, `stopped_at` and `diverged`; and `trace`,
        with the `loss`, `params` and `gradient_norm` before each step.

    Raises:
        TypeError: `steps` is not an int, `key` is not a key, a parameter is a Python integer, or the loss does not
            return a scalar.
        ValueError: `steps < 1`, several keys, a key of the kind rbg, a parameter that is not a number, or the loss
            returns a state of another structure or shape.

    Example:
        >>> import optax
        >>> loss = lambda theta, key: rgrad.expect(lambda x: (x - 3) ** 2, dist.Normal(theta, 1.0), key, 100)
        >>> fitted = rgrad.fit(loss, 0.0, optax.sgd(0.1), key, 100)
        >>> print(f"{fitted.params:.1f}")
        3.0
    """
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer):
        raise TypeError(f"fit: steps must be a Python int (it is the length of a loop), got {steps!r}")
    if steps < 1:
        raise ValueError(f"fit: steps must be at least 1, got {steps}")
    if not hasattr(optimizer, "init"):
        raise TypeError(f"fit: optimizer must be an optax transformation (e.g. optax.adam(0.01)), got {optimizer!r}")
    check_counted_key(key, "fit")
    start = params if isinstance(params, Fit) else initial_fit(params, optimizer, state)
    trained, rest = split(start.params)
    start = start._replace(params=trained)
    last = _last_of(start.trace, check_loss(loss, start, rest, key))
    end = _program(loss, start._replace(trace=last), optimizer, key, int(steps), feasible, record, rest)
    return end if rest is None else end._replace(params=rest.join(end.params))


def initial_fit(params: Params, optimizer: optax.GradientTransformation, state: State = None) -> Fit:
    """A `Fit` with no steps taken, from which `fit` starts. It is for runs in pieces that share one program.

    Raises:
        TypeError: a parameter is not a float.
        ValueError: there are no parameters, or one is not a number.

    Example:
        >>> import optax
        >>> loss, optimizer = lambda theta, key: (theta - 3) ** 2, optax.sgd(0.1)
        >>> fitted = rgrad.initial_fit(0.0, optimizer)
        >>> for _ in range(4):
        ...     fitted = rgrad.fit(loss, fitted, optimizer, key, 25)  # one program for all four pieces
        >>> print(f"{fitted.params:.2f} {fitted.step}")
        3.00 100
    """
    trained, rest = split(params)
    whole = trained if rest is None else params
    return Fit(
        whole, trained, state, optimizer.init(trained), jnp.asarray(0), jnp.asarray(-1), jnp.asarray(False), NOTHING
    )


def _last_of(trace: Trace, dtype: Any) -> Trace:
    """The last loss and gradient norm of an earlier piece, or nan if there are none."""
    # The nan is made by NumPy, because `jax_debug_nans` refuses one that JAX makes.
    last: Callable[[Any], Any] = lambda values: (
        np.full((), np.nan, dtype) if values is None else jnp.asarray(values)[-1]
    )
    return Trace(last(trace.loss), None, last(trace.gradient_norm))


def _fit(
    loss: Callable[..., Any],
    start: Fit,
    optimizer: optax.GradientTransformation,
    key: Array,
    steps: int,
    feasible: Callable[[Params], Array] | None,
    record: Callable[[Params], Any] | None,
    rest: Rest | None,
) -> Fit:
    import optax  # imported here because the import is slow

    whole = (lambda params: params) if rest is None else rest.join
    kept = record if record in (None, everything) else lambda params: record(whole(params))
    of = lambda params, *others: loss(whole(params), *others)
    optimizer = optax.with_extra_args_support(optimizer)

    def value_and_gradient(params: Params, state: State, key: Array) -> Any:
        if state is None:
            value, gradient = jax.value_and_grad(of)(params, key)
            return value, None, gradient
        (value, state), gradient = jax.value_and_grad(of, has_aux=True)(params, state, key)
        return value, state, gradient

    def step(carry: tuple[Fit, Array, Array], _: None) -> Any:
        at, last_value, last_norm = carry
        step_key = fold_in(key, at.step)
        value, state, gradient = value_and_gradient(at.params, at.state, step_key)
        # For line searches, and for rates that follow the loss.
        again = lambda params: value_and_gradient(params, at.state, step_key)[0]
        extra = {"value": value, "grad": gradient, "value_fn": again}
        updates, optimizer_state = optimizer.update(gradient, at.optimizer_state, at.params, **extra)
        params = optax.apply_updates(at.params, updates)
        norm = optax.tree.norm(gradient)
        allowed = jnp.asarray(True) if feasible is None else jnp.all(feasible(whole(params)))
        # The record must be finite only inside the feasible set: outside, e.g. a square root may be nan.
        finite = all_finite((value, norm, params, state))
        if kept is not None:
            finite &= ~allowed | all_finite(kept(params))
        good = (at.stopped_at < 0) & finite & allowed
        keep = lambda new, old: jax.tree.map(partial(jnp.where, good), new, old)
        # If the loss is not finite here, the last good parameters are those before.
        back = (at.stopped_at < 0) & ~all_finite((value, norm))
        moved = Fit(
            params=keep(params, jax.tree.map(partial(jnp.where, back), at.before, at.params)),
            before=keep(at.params, at.before),
            state=keep(like(state, at.state), at.state),
            optimizer_state=keep_floats(good, optimizer_state, at.optimizer_state),
            step=at.step + 1,
            stopped_at=jnp.where((at.stopped_at < 0) & ~good, at.step, at.stopped_at),
            diverged=at.diverged | ((at.stopped_at < 0) & ~finite),
            trace=NOTHING,
        )
        if kept is None:
            return (moved, last_value, last_norm), NOTHING
        known = lambda new, last: jnp.where((at.stopped_at < 0) & jnp.isfinite(new), new, last)
        value, norm = known(value, last_value), known(norm, last_norm)
        return (moved, value, norm), Trace(value, kept(at.params), norm)

    shape = jax.eval_shape(value_and_gradient, start.params, start.state, key)
    norm = jax.eval_shape(optax.tree.norm, shape[2]).dtype
    last = start.trace.loss.astype(shape[0].dtype), start.trace.gradient_norm.astype(norm)
    (end, _, _), trace = lax.scan(step, (start._replace(trace=NOTHING), *last), None, length=steps)
    return end._replace(trace=trace)


_program = compiled(_fit, ("loss", "optimizer", "steps", "feasible", "record"))
