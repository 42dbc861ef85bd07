"""The list of estimators. `compare`, `sweep`, the experiments, the tests, the documentation and error messages read it.

To add an estimator: write a file in this package, a row here, and a line in `rgrad/__init__.pyi`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpyro.distributions as dist

from rgrad.distributions.cumulative import has_ratios
from rgrad.distributions.dependent import antithetic, dependent_draws, quasi, stratified
from rgrad.distributions.gammas import as_gammas
from rgrad.distributions.implicit import has_rsample
from rgrad.distributions.keyed import base_of
from rgrad.distributions.relaxations import OneHotCategorical
from rgrad.distributions.standardised import by_moments
from rgrad.distributions.support import edges
from rgrad.distributions.weak_derivatives import weak_derivatives
from rgrad.distributions.wrappers import elementary, has_rule
from rgrad.errors import NoDerivative, NoRule, NotApplicable, check_takes, nearest
from rgrad.estimators.arm import arm, disarm
from rgrad.estimators.baselines import leave_one_out
from rgrad.estimators.control_variates import delta, optimal
from rgrad.estimators.enumerated import enumerated, is_finite, support_of
from rgrad.estimators.generalized import generalized
from rgrad.estimators.go import go
from rgrad.estimators.gumbel_rao import gumbel_rao
from rgrad.estimators.measure_valued import measure_valued
from rgrad.estimators.rebar import rebar
from rgrad.estimators.reinmax import reinmax
from rgrad.estimators.rejection import rejection
from rgrad.estimators.relaxed import gumbel_softmax, straight_through
from rgrad.estimators.reparameterized import reparameterized
from rgrad.estimators.score_function import score_function
from rgrad.estimators.unordered import GROUP, unordered
from rgrad.protocols import Distribution, Estimator

Applies = Callable[[Any], bool]
Estimators = Mapping[str, Estimator | str] | Iterable[Estimator | str] | str
"""Estimators by name, or a list of them, or the name of one. Each may be given by its name in `ESTIMATORS`."""


class EstimatorRow(NamedTuple):
    """One estimator and its properties.

    Example:
        >>> row = rgrad.ESTIMATORS["disarm"]
        >>> row.order, row.biased, row.evaluations(dist.Bernoulli(0.5), 10)
        (1, False, 20)
        >>> row.applies(dist.Normal(0.0, 1.0))
        False
    """

    name: str
    estimator: Estimator
    kind: str
    """How it computes the gradient. Two of one kind may be wrong in the same way, so they do not confirm each other."""
    applies: Applies
    """Whether it has a rule for a distribution (without keys), judged by the type of the distribution."""
    evaluations: Callable[[Any, int], int]
    """The number of evaluations of f in one estimate: `(q, n) -> count`."""
    order: int | None = None
    """The highest order of derivatives that is correct. None: every order."""
    biased: bool = False
    compared: bool = True
    """Whether `compare` includes it by default."""


def drawn(draws: Callable[[Any], Any], estimator: Estimator) -> Estimator:
    """The same estimator with samples from `draws(q)`."""
    return lambda f, q, key, n: estimator(f, draws(q), key, n)


def _always(q: Any) -> bool:
    return True


def _of_rules(rules: Any) -> Applies:
    return lambda q: dependent_draws(q) is None and has_rule(rules, elementary(q))


def _of_types(*types: type) -> Applies:
    return lambda q: dependent_draws(q) is None and isinstance(elementary(q), types)


def _is_finite(q: Any) -> bool:
    return dependent_draws(q) is None and is_finite(q)


def _is_count(q: Any) -> bool:
    return dependent_draws(q) is None and has_ratios(elementary(q))


def _numbers(q: Any) -> int:
    """The number of coordinates of all parameters that have a weak derivative."""
    return len(weak_derivatives(elementary(q))) * math.prod(q.event_shape)


def _every_parameter_has_a_weak_derivative(q: Any) -> bool:
    one = elementary(q)
    return set(one.arg_constraints) <= set(weak_derivatives(one))


_each: Callable[[Any, int], int] = lambda q, n: n
_with_centre: Callable[[Any, int], int] = lambda q, n: n + 1
BITS = (dist.BernoulliProbs, dist.BernoulliLogits)

ESTIMATORS: Mapping[str, EstimatorRow] = MappingProxyType({
    row.name: row
    for row in (
        EstimatorRow("reparameterized", reparameterized, "path", has_rsample, _each),
        EstimatorRow("reparameterized+antithetic", drawn(antithetic, reparameterized), "path", has_rsample, _each),
        EstimatorRow("reparameterized+stratified", drawn(stratified, reparameterized), "path", has_rsample, _each, compared=False),
        EstimatorRow("reparameterized+quasi", drawn(quasi, reparameterized), "path", has_rsample, _each, compared=False),
        EstimatorRow("score_function", score_function, "score", _always, _each),
        EstimatorRow("score_function+leave_one_out", partial(score_function, baseline=leave_one_out), "score", _always, _each),
        EstimatorRow("score_function+optimal", partial(score_function, baseline=optimal), "score", _always, _each),
        EstimatorRow("score_function+delta", partial(score_function, control_variate=delta), "score",
            _of_types(dist.Normal, dist.MultivariateNormal, dist.LowRankMultivariateNormal), _with_centre, compared=False),
        EstimatorRow("score_function+antithetic", drawn(antithetic, score_function), "score", _always, _each, compared=False),
        EstimatorRow("score_function+stratified", drawn(stratified, score_function), "score", _always, _each, compared=False),
        EstimatorRow("score_function+quasi", drawn(quasi, score_function), "score", _always, _each, compared=False),
        EstimatorRow("generalized", generalized, "generalized", _of_rules(by_moments), _with_centre),
        EstimatorRow("rejection", rejection, "rejection", _of_rules(as_gammas), _with_centre),
        EstimatorRow("measure_valued", measure_valued, "weak", _of_rules(weak_derivatives),
            lambda q, n: n * (1 + 2 * _numbers(q)), order=1),
        EstimatorRow("measure_valued+independent", partial(measure_valued, coupled=False), "weak", _of_rules(weak_derivatives),
            lambda q, n: n * (1 + 2 * _numbers(q)), order=1, compared=False),
        EstimatorRow("go", go, "go", _is_count, lambda q, n: n * (1 + math.prod(q.event_shape)), order=1),
        EstimatorRow("enumerated", enumerated, "exact", _is_finite, lambda q, n: len(support_of(q))),
        EstimatorRow("unordered", unordered, "unordered", _is_finite,
            lambda q, n: GROUP * n if len(support_of(q)) > GROUP else len(support_of(q))),
        EstimatorRow("arm", arm, "arm", _of_types(*BITS), lambda q, n: 2 * n, order=1),
        EstimatorRow("disarm", disarm, "arm", _of_types(*BITS), lambda q, n: 2 * n, order=1),
        EstimatorRow("rebar", rebar, "score", _of_types(*BITS, OneHotCategorical), lambda q, n: 3 * n),
        EstimatorRow("gumbel_softmax", gumbel_softmax, "relaxed", _of_types(*BITS, OneHotCategorical), _each, biased=True,
            compared=False),
        EstimatorRow("straight_through", straight_through, "relaxed", _of_types(*BITS, OneHotCategorical), _each, order=1,
            biased=True, compared=False),
        EstimatorRow("reinmax", reinmax, "relaxed", _of_types(*BITS, OneHotCategorical), _each, order=1, biased=True,
            compared=False),
        EstimatorRow("gumbel_rao", gumbel_rao, "relaxed", _of_types(*BITS, OneHotCategorical), _each, order=1, biased=True,
            compared=False),
    )
})  # fmt: skip


def estimator_of(given: Estimator | str, caller: str) -> Estimator:
    """The estimator of that name in the table; or `given` itself, if it is a function.

    Raises:
        ValueError: no estimator has this name.
        TypeError: `given` is neither a name nor a function of four arguments.
    """
    if isinstance(given, str):
        if given not in ESTIMATORS:
            raise ValueError(f"{caller}: unknown estimator {given!r}{nearest(given, ESTIMATORS)}")
        return ESTIMATORS[given].estimator
    if not callable(given):
        raise TypeError(
            f"{caller}: estimator must be callable, or a name of rgrad.ESTIMATORS, got {type(given).__name__} {given!r}"
        )
    if row_of(given) is None:
        check_takes(given, ("f", "q", "key", "n"), f"{caller}: estimator")
    return given


def estimators_of(given: Estimators, caller: str) -> dict[str, Estimator]:
    """The estimators by name. A function in a list has its name in the table, or else its own name.

    Raises:
        ValueError: an unknown name, two estimators with the same name, or no estimators.
        TypeError: an estimator is neither a name nor callable.
    """
    if isinstance(given, Mapping):
        named = [(str(name), estimator_of(e, caller)) for name, e in given.items()]
    else:
        several = [given] if isinstance(given, str) or not isinstance(given, Iterable) or callable(given) else given
        named = [(name_of_estimator(e), estimator_of(e, caller)) for e in several]
    if not named:
        raise ValueError(f"{caller}: estimators is empty; pass at least one, or omit it for the default")
    found = dict(named)
    if len(found) < len(named):
        twice = next(name for i, (name, _) in enumerate(named) if name in [other for other, _ in named[:i]])
        raise ValueError(f"{caller}: two estimators are named {twice!r}; pass a dict of names to estimators")
    return found


def name_of_estimator(estimator: Estimator | str) -> str:
    """The name in the table, or the estimator's own."""
    if isinstance(estimator, str):
        return estimator
    row = next((row for row in ESTIMATORS.values() if row.estimator is estimator), None)
    return row.name if row else getattr(estimator, "__name__", type(estimator).__name__)


def row_of(estimator: Any) -> EstimatorRow | None:
    """The row of an estimator, or of the function that it configures (`partial`). None if it is not in the table."""
    exact = next((row for row in ESTIMATORS.values() if row.estimator is estimator), None)
    while exact is None and isinstance(estimator, partial):
        estimator = estimator.func
        exact = next((row for row in ESTIMATORS.values() if row.estimator is estimator), None)
    return exact


def those_for(q: Distribution) -> str:
    """The unbiased estimators that have a rule for `q`, as text: `reparameterized, generalized, or score_function`.

    If the support of `q` may depend on the parameters, those that need a fixed one are left out.
    """
    base = base_of(q)
    moving = any(isinstance(edge, jax.core.Tracer) for edge in edges(base))
    rows = [row for row in ESTIMATORS.values() if not row.biased and "+" not in row.name and row.applies(base)]
    names = [row.name for row in rows if row.kind != "weak" or _every_parameter_has_a_weak_derivative(base)]
    if moving and "reparameterized" in names:
        names = ["reparameterized"]
    elif "reparameterized" in names:
        names = sorted(names, key="score_function".__eq__)
    else:
        names = sorted(names, key="score_function".__ne__)
    return " or ".join(names) if len(names) < 3 else ", ".join(names[:-1]) + ", or " + names[-1]


@contextmanager
def naming_others(q: Distribution) -> Iterator[None]:
    """Adds the names of the estimators that have a rule for `q` to the error of one that has none."""
    try:
        yield
    except NotApplicable as error:
        if isinstance(error, NoRule | NoDerivative) and len(error.args) == 1:
            error.args = (*error.args, f"use {those_for(q)}")
        raise
