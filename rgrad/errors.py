"""The exceptions raised by an estimator that cannot be used for a distribution, an objective or a number of samples.

Also helpers for error messages.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: `; did you mean 'x'? (there are: ...)`."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, 1)
    return (f"; did you mean {close[0]!r}?" if close else "") + f" (there are: {', '.join(known)})"


def check_takes(function: Callable[..., Any], arguments: Sequence[str], what: str, advice: str = "") -> None:
    """Raises TypeError if `function` cannot be called with as many positional arguments as these names."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some built-in functions have none
        return
    try:
        signature.bind(*arguments)
    except TypeError:
        name = getattr(function, "__name__", type(function).__name__)
        own = ", ".join(signature.parameters)
        raise TypeError(
            f"{what} must take ({', '.join(arguments)}), got {name}({own})" + (f"; {advice}" if advice else "")
        ) from None


class NotApplicable(Exception):
    """The estimator does not apply here.

    Estimators raise one of its subclasses, as `NoRule(cause)` or `NoRule(cause, advice)`. Each subclass is also a
    built-in exception. If there is no advice, `rgrad.expect` and the functions built on it add the names of the
    estimators that do apply.

    Code that tries several estimators should catch only this class. A bug in an objective is then never mistaken for an
    estimator that does not apply:

        for name, estimator in candidates.items():
            try:
                jax.eval_shape(jax.grad(partial(loss, estimator=estimator)), params, key)
            except rgrad.NotApplicable as error:
                print(f"{name} is left out: {error}")

    Raise it in your own estimator if it does not support the `q`, `f` or `n` that it receives.

    Example:
        >>> try:
        ...     rgrad.expect(lambda x: x, dist.Bernoulli(0.3), key, 10, rgrad.reparameterized)
        ... except rgrad.NotApplicable as error:
        ...     print(str(error)[:80])
        reparameterized needs q.rsample, and Bernoulli has none; use score_function, mea
    """

    def __str__(self) -> str:
        return "; ".join(map(str, self.args))


class NoDerivative(NotApplicable, TypeError):
    """The estimator needs a derivative that `q` or `f` does not have."""


class NoRule(NotApplicable, NotImplementedError):
    """The estimator has no rule for `q`, for one of its parameters, or for derivatives of this order."""


class Unsuitable(NotApplicable, ValueError):
    """A value rules the estimator out, e.g. too few samples for a baseline, too large a support, or dependent draws."""
