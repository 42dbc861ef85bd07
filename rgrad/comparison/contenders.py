"""What `compare` compares: the estimators of a problem, or losses, as functions, and the references of each."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from rgrad.comparison.combination import Combined
from rgrad.comparison.jumps import Jump, find_jump, lines_between, lines_from, segments_for
from rgrad.comparison.labels import Labels
from rgrad.comparison.witnesses import THROUGH_F
from rgrad.distributions.draws import check_draw
from rgrad.distributions.others import as_distribution
from rgrad.estimators.table import ESTIMATORS, Estimators, estimators_of, row_of
from rgrad.measurement.exact_gradient import exact_gradient
from rgrad.measurement.quadrature import rules_for
from rgrad.parameters import all_in, flattened, numbers
from rgrad.problems import (
    check_objective,
    expect_objective,
    gradient,
    named,
    names_to_differentiate,
    point_of,
    those_that_apply,
)
from rgrad.protocols import Estimator, Params, Problem
from rgrad.tracing.traced import depends

COMPARED = {name: row.estimator for name, row in ESTIMATORS.items() if row.compared and not row.biased}
"""The defaults of `compare`, if they have a rule for the distribution. All are unbiased if they apply."""
REFERENCES = ("score_function+leave_one_out", "score_function", "measure_valued")
FEW = 8  # the largest size of a sample for which `measure_valued` is a reference: it evaluates f twice per element
Losses = Mapping[str, Callable[[Any, Array], ArrayLike]]


class Contenders(NamedTuple):
    """The estimators to compare, and the references that judge them."""

    gradients: Mapping[str, Callable[[Any, Array], Array]]
    """`(parameters, key) -> estimate` of shape `(coordinates,)`. Includes references that the user did not ask for."""
    chosen: Any
    """The parameters that are differentiated."""
    labels: Sequence[str]
    asked: tuple[str, ...]
    judges: Mapping[str, str]
    """For each estimator, the sampled reference that judges it."""
    exact: np.ndarray[Any, Any] | None
    """The exact gradient, which judges all estimators."""
    left_out: Mapping[str, str]
    jump: Jump | None = None
    notes: tuple[str, ...] = ()
    jumping: np.ndarray[Any, Any] | None = None
    """The coordinates in which the objective itself jumps: booleans, shape `(coordinates,)`. None if there are none."""
    kinds: Mapping[str, str | None] = MappingProxyType({})
    """The kind of each estimator (`EstimatorRow.kind`). Empty for losses."""
    references: tuple[str, ...] = ()
    """The sampled references, in order of preference."""
    rarest: float = 0.0
    """The smallest probability in a sum over the support. 1 for quadrature, which converges only if nothing is rare."""
    n: int = 1


def of_problem(
    problem: Problem,
    estimators: Estimators | None,
    params: Params | None,
    wrt: Sequence[str] | None,
    n: int,
    key: Array,
) -> Contenders:
    problem = named(problem, "compare")
    given = COMPARED if estimators is None else estimators_of(estimators, "compare")
    point = point_of(problem, params, "compare")
    names = names_to_differentiate(problem, point, wrt, "compare")
    chosen = {name: point[name] for name in names}
    q = as_distribution(problem.distribution(point), "compare")
    check_draw(q, n, "compare")
    asked = {
        name: e.fitted(partial(problem.objective, point), q, jax.random.fold_in(key, n), n)
        if isinstance(e, Combined) and e.weights is None else e
        for name, e in given.items()
    }  # fmt: skip

    def flat(estimator: Estimator) -> Callable[[Any, Array], Array]:
        of = lambda chosen, key: gradient(problem, {**point, **chosen}, names, key, n, estimator)
        return jax.jit(lambda chosen, key: ravel_pytree(of(chosen, key))[0])  # traced only once

    def value(estimator: Estimator) -> Callable[[Any, Array], Array]:
        return lambda chosen, key: expect_objective(problem, {**point, **chosen}, key, n, estimator)

    def those(estimators: Mapping[str, Estimator]) -> tuple[dict[str, Any], dict[str, str]]:
        of = lambda make: {name: make(e) for name, e in estimators.items()}
        return those_that_apply(of(flat), of(value), chosen, jax.random.key(0))

    check_objective(problem, point, "compare")
    gradients, left_out = those(asked)
    in_x, in_params = _jumps(problem, point, chosen, q)
    exact = exact_gradient(problem, point, names)
    kinds = {name: _kind(e) for name, e in asked.items() if name in gradients}
    small = (
        exact is None and sum(a.size for a in jax.tree.leaves(jax.eval_shape(lambda k: q.sample(k, ()), key))) <= FEW
    )
    references, _ = those(
        {name: ESTIMATORS[name].estimator for name in REFERENCES if name != "measure_valued" or small}
    )
    # The estimators that the user asked for also serve as references. Others are added only as references.
    same = {name: next((mine for mine, e in asked.items() if mine in gradients and _same(e, ESTIMATORS[name].estimator)), name)
            for name in references}  # fmt: skip
    judges = {}
    for name in gradients:
        if exact is None or kinds[name] == "exact":
            others = [same[reference] for reference in references if same[reference] != name]
            judges.update({name: others[0]} if others else {})
    use = set(judges.values()) | {mine for reference, mine in same.items() if reference == "measure_valued"}
    if "score" not in kinds.values():
        use |= set(list(same.values())[:1])
    needed = {mine: references[reference] for reference, mine in same.items() if mine in use}
    kinds = {mine: _kind(ESTIMATORS[reference].estimator) for reference, mine in same.items() if mine in use} | kinds
    if exact is None and not set(kinds.values()) - {None, "score", *(THROUGH_F if in_x else ())}:
        further = {} if in_x else those({"reparameterized": ESTIMATORS["reparameterized"].estimator})[0]
        needed, kinds = {**needed, **further}, {**dict.fromkeys(further, "path"), **kinds}
    notes = [
        f"the objective jumps by {jump.size:.3g} as a function of {name}, near {_place(jump.where[0])}: no estimator includes "
        f"what this adds to the gradient, so none is judged in {name}"
        for name, jump in in_params.items()
    ]
    if in_x is not None:
        notes.append(
            f"the objective jumps by {in_x.size:.3g} near x = {_place(in_x.where)}: a gradient through it misses the jump"
        )
    labels = Labels(chosen)
    jumping = labels.of(in_params) if in_params else None
    return Contenders(
        {**needed, **gradients}, chosen, labels, tuple(gradients), judges, exact, left_out, in_x, tuple(notes), jumping,
        kinds, tuple(mine for mine in same.values() if mine in use or mine in gradients), _rarest(q) if exact is not None else 0.0, n,
    )  # fmt: skip


def _jumps(problem: Problem, point: Any, chosen: Any, q: Any) -> tuple[Jump | None, dict[str, Jump]]:
    """A jump of the objective in x, or None; and its jumps in the parameters to differentiate, by name."""
    sizes = jax.tree.map(lambda a: a.size, (jax.eval_shape(lambda: q.sample(jax.random.key(0), ())), chosen))
    count = segments_for(sum(jax.tree.leaves(sizes)))
    x = q.sample(jax.random.key(0), (count,))
    whole = jax.tree.map(lambda a: not jnp.issubdtype(a.dtype, jnp.floating), x)
    of_x = lambda x: jax.tree.map(lambda a, is_whole: jnp.rint(a).astype(int) if is_whole else a, x, whole)
    in_x, in_params = None, {}
    with jax.enable_x64(True):
        wide = {name: jnp.asarray(np.asarray(value), None if value.dtype.kind == "i" else float)
                for name, value in point.items()}  # fmt: skip

    def along(names: Sequence[str]) -> Jump | None:
        start, end = lines_from({name: chosen[name] for name in names}, count)
        return find_jump(lambda both: problem.objective({**wide, **both[0]}, of_x(both[1])), (start, x), (end, x))

    try:
        if not any(jax.tree.leaves(whole)):
            in_x = find_jump(lambda x: problem.objective(wide, x), *lines_between(x))
        value = lambda chosen: problem.objective({**point, **chosen}, jax.tree.map(lambda a: a[0], x))
        if depends(value, chosen) and along(tuple(chosen)) is not None:
            in_params = {name: jump for name in chosen if (jump := along((name,))) is not None}
    except (TypeError, ValueError, NotImplementedError):  # it only works in 32 bits, in which it was traced
        pass
    return in_x, in_params


def of_losses(
    losses: Losses, params: Params | None, wrt: Sequence[str] | None, references: Sequence[str] | None
) -> Contenders:
    if params is None or (isinstance(params, Mapping) and not params):
        raise ValueError("compare: losses need params; pass a dict of names to numbers or arrays")
    flat_params, rebuild = flattened(params, "compare")
    point = {name: _array(value, f"compare: parameter {name}") for name, value in flat_params.items()}
    names = all_in(wrt or tuple(point), point)
    for name in names:
        if name not in point:
            raise ValueError(f"compare: unknown parameter {name!r}; choose from {', '.join(point)}")
    chosen = {name: point[name] * 1.0 for name in names}

    def value(loss: Callable[[Any, Array], ArrayLike]) -> Callable[[Any, Array], Array]:
        own = rebuild or (lambda point: point)
        return lambda chosen, key: jnp.asarray(loss(own({**point, **chosen}), key))

    def flat(loss: Callable[[Any, Array], ArrayLike]) -> Callable[[Any, Array], Array]:
        of = jax.grad(value(loss))
        return jax.jit(lambda chosen, key: ravel_pytree(of(chosen, key))[0])

    gradients, left_out = those_that_apply(
        {name: flat(loss) for name, loss in losses.items()},
        {name: value(loss) for name, loss in losses.items()},
        chosen,
        jax.random.key(0),
    )
    known = [name for name in references or () if name in gradients]
    judges = {name: other for name in gradients for other in [r for r in known if r != name][:1]}
    return Contenders(gradients, chosen, Labels(chosen), tuple(gradients), judges, None, left_out)


def _array(value: Any, what: str) -> Array:
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError):
        return jnp.asarray(numbers(value, what))  # its error says what is wrong


def _same(a: Any, b: Any) -> bool:
    """Whether two estimators are the same function, or the same `partial` of it."""
    if isinstance(a, partial) and isinstance(b, partial):
        return (a.func, a.args, a.keywords) == (b.func, b.args, b.keywords)
    return a is b


def _kind(estimator: Any) -> str | None:
    """The kind of an estimator of this package. None if it is biased or its kind is not known."""
    row = row_of(estimator)
    return None if row is None or row.biased else row.kind


def _rarest(q: Any) -> float:
    """The smallest probability of a value in a sum over the support. 1 for quadrature."""
    rules = rules_for(q)
    if len(rules) > 1:
        return 1.0
    weights = np.asarray(rules[0].weights) if rules else np.zeros(1)
    return float(np.min(weights, where=weights > 0, initial=1.0)) if rules else 0.0


def _place(where: Any) -> str:
    show = lambda a: np.array2string(np.asarray(a), precision=4, threshold=6, separator=", ")
    if isinstance(where, dict):
        return ", ".join(f"{name} = {show(value)}" for name, value in where.items())
    return ", ".join(show(leaf) for leaf in jax.tree.leaves(where))
