"""What is audited: a loss and its value as functions of one array of numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from rgrad.comparison.labels import Labels
from rgrad.errors import check_takes, nearest
from rgrad.parameters import WHOLE, all_in
from rgrad.parts import split

Scalar = Callable[[Any, Array], Any]


class Subject(NamedTuple):
    """A loss, as a function of the audited parameters in one array `theta` of shape `(size,)`, and of a key."""

    loss: Callable[[Array, Array], Array]
    """`(theta, key) -> scalar`. Its gradient is audited."""
    value: Callable[[Array, Array], Array]
    """`(theta, key) -> scalar`. The derivative of its mean is the truth."""
    theta: Array
    labels: Labels
    sizes: dict[str, int]
    """The number of elements of each parameter, in the order of `theta`."""
    own: bool
    """Whether the value is the loss itself."""

    @property
    def eps(self) -> float:
        """The machine epsilon of the parameters."""
        return float(jnp.finfo(self.theta.dtype).eps)


def subject_of(
    loss: Scalar, params: Any, key: Array, value: Scalar | None, wrt: Sequence[str] | str | None, has_aux: bool
) -> Subject:
    """Checks and flattens what `audit` is given.

    Raises:
        TypeError, ValueError: see `audit`.
    """
    for name, function in (("loss", loss), ("value", value)):
        if function is None and name == "value":
            continue
        if not callable(function):
            raise TypeError(f"audit: {name} must be callable, got {type(function).__name__} {function!r}")
        check_takes(function, ("params", "key"), f"audit: {name}")
    trained, rest = split(params, "audit", "differentiated")
    found = jax.tree_util.tree_leaves_with_path(trained)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") or WHOLE for path, _ in found]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"audit: two parameters are called {twice!r}, the path of their keys; rename one of the keys")
    every = dict(zip(names, (leaf for _, leaf in found), strict=True))
    for name, leaf in every.items():
        if not isinstance(leaf, jax.core.Tracer) and not np.isfinite(np.asarray(leaf, np.float64)).all():
            raise ValueError(f"audit: parameter {name} is nan or infinite; give a point at which the loss is finite")
    chosen = list(every) if wrt is None else list(dict.fromkeys(all_in(wrt, every)))
    for name in chosen:
        if name not in every:
            raise ValueError(f"audit: wrt: unknown parameter {name!r}{nearest(name, every)}")
    chosen = [name for name in sorted(chosen) if every[name].size]
    if not chosen:
        raise ValueError("audit: wrt names no parameter; name at least one, or leave it out to audit all")
    theta, unravel = ravel_pytree({name: every[name] for name in chosen})
    structure = jax.tree.structure(trained)

    def model(theta: Array) -> Any:
        whole = every | unravel(theta)
        return (lambda tree: tree if rest is None else rest.join(tree))(
            jax.tree.unflatten(structure, [whole[name] for name in names])
        )

    def scalar(function: Scalar, what: str) -> Callable[[Array, Array], Array]:
        def of(theta: Array, key: Array) -> Array:
            returned = function(model(theta), key)
            if has_aux:
                if not isinstance(returned, tuple) or len(returned) != 2:
                    raise TypeError(f"audit: with has_aux, {what} must return (value, aux), got {returned!r}")
                returned = returned[0]
            is_array = hasattr(returned, "dtype")
            if not (np.isscalar(returned) or (is_array and returned.shape == ())):
                hint = "; pass has_aux=True if it returns (value, aux)" if isinstance(returned, tuple) else ""
                shown = f"shape {returned.shape}" if is_array else type(returned).__name__
                raise TypeError(f"audit: {what} must return a scalar, got {shown}; take a mean or a sum{hint}")
            kind = returned.dtype if is_array else jnp.result_type(returned)
            if not jnp.issubdtype(kind, jnp.floating):
                raise TypeError(f"audit: {what} must return a float, got {kind}; write jnp.asarray(x, float)")
            return jnp.asarray(returned)

        return of

    audited = scalar(loss, "loss")
    true = audited if value is None else scalar(value, "value")
    jax.eval_shape(audited, theta, key)
    if value is not None:
        jax.eval_shape(true, theta, key)
    sizes = {name: int(every[name].size) for name in chosen}
    return Subject(audited, true, theta, Labels({name: every[name] for name in chosen}), sizes, value is None)
