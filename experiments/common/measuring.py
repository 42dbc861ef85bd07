"""A problem, its estimators and the measurement of their gradients, for the experiments."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions.distribution import validation_enabled

import rgrad
from experiments.common.errors import UsageError
from experiments.common.loading import expanded, load_estimator, load_problem, where_and_what
from experiments.common.progress import Advance
from experiments.common.settings import ProblemSettings
from rgrad.distributions import check_draw, evaluate, name_of
from rgrad.problems import Point, gradient, names_to_differentiate, point_of

CHUNK = 2**24  # draws between two moves of the progress bar, and between two chances to interrupt
PILOT = 10_000  # draws of x on which the objective is tried first
FEW = 200  # degrees of freedom of a variance under which its interval covers less than it says


class Measured(NamedTuple):
    """The moments of the gradient estimates of one n: estimator, then parameter, to arrays of its shape."""

    n: int
    moments: rgrad.Moments

    @property
    def weak(self) -> set[tuple[str, str, int]]:
        """Which rows (estimator, parameter, n) have a variance interval that covers less than it says."""
        return {
            (estimator, label, self.n)
            for estimator, freedoms in self.moments.variance_freedom.items()
            for name, freedom in freedoms.items()
            for label, f, v in zip(
                labels(name, freedom), np.ravel(freedom), np.ravel(self.moments.variance[estimator][name]), strict=True
            )
            if v > 0 and not f >= FEW
        }


class ProblemTask(NamedTuple):
    """What is to be measured: a problem at a point, some of its parameters, and the estimators by name."""

    name: str
    problem: rgrad.Problem
    point: Point
    wrt: tuple[str, ...]
    estimators: Mapping[str, rgrad.Estimator]
    left_out: Mapping[str, str] = MappingProxyType({})
    """What `--estimators all` leaves out, and why."""

    def gradients(self, n: int) -> Callable[[jax.Array], dict[str, dict[str, jax.Array]]]:
        """One call of every estimator, with the same key: one program for all, and a fair comparison."""
        return lambda key: {
            name: gradient(self.problem, self.point, self.wrt, key, n, estimator)
            for name, estimator in self.estimators.items()
        }

    def measure(self, key: jax.Array, n: int, replicates: int, advance: Advance) -> Measured:
        """The moments of the gradients of that n over the replicates.

        Raises:
            UsageError: a gradient is nan or infinite.
        """
        draw = self.gradients(n)
        chunk = 2 ** max(0, (CHUNK // n).bit_length() - 1)
        moments = None
        for start in range(0, replicates, chunk):
            count = min(chunk, replicates - start)
            part = rgrad.measure(draw, key, count, start=start)
            moments = part if moments is None else moments.merge(part)
            self._check_finite(moments, n)
            advance(count * n)
        assert moments is not None
        return Measured(n, moments)

    def _check_finite(self, moments: rgrad.Moments, n: int) -> None:
        for estimator, counts in moments.nonfinite.items():
            for name, count in counts.items():
                if worst := int(np.max(count)):
                    raise UsageError(
                        f"{estimator}: its gradient for {name} was nan or infinite in {worst:,} of "
                        f"{int(moments.count):,} estimates of {n} samples, though the objective was finite; look at "
                        "its derivative (a root or a logarithm at 0?), or try --float-width 64"
                    )

    def exact(self) -> dict[str, rgrad.ExactMoments | None]:
        return {
            name: rgrad.exact_moments(self.problem, estimator, self.point, self.wrt)
            for name, estimator in self.estimators.items()
        }


def prepare(
    settings: ProblemSettings, name: str, estimators: tuple[str, ...], num_samples: tuple[int, ...]
) -> ProblemTask:
    """The task that the settings describe, tried out before anything is written or measured.

    Raises:
        UsageError: whatever is wrong with the problem, its parameters, or an estimator for it.
    """
    task = tried(settings, name, estimators)
    left_out = {}
    for name, estimator in task.estimators.items():
        alone = task._replace(estimators={name: estimator})
        try:
            for n in num_samples:
                # What rgrad refuses, it refuses when tracing. The parameters have been checked, once.
                with usage(f"{name} with N = {n}", Exception), validation_enabled(False):
                    jax.eval_shape(alone.gradients(n), jax.random.key(0))
        except UsageError as error:
            if name in estimators:  # asked for by name
                raise
            left_out[name] = str(error)
    kept = {name: estimator for name, estimator in task.estimators.items() if name not in left_out}
    if not kept:
        raise UsageError(f"--estimators {' '.join(estimators)}: none applies; {next(iter(left_out.values()))}")
    return task._replace(estimators=kept, left_out=left_out)


def tried(settings: ProblemSettings, name: str, estimators: tuple[str, ...]) -> ProblemTask:
    """The problem at its point, tried out on the first draws; the estimators by name, which are not.

    Raises:
        UsageError: whatever is wrong with the problem, its parameters, or the name of an estimator.
    """
    problem = load_problem(name)
    with usage("--params" if settings.params else f"--problem {name}", ValueError):
        point = point_of(problem, dict(settings.params))
    with usage("--wrt" if settings.wrt else f"--problem {name}", ValueError):
        wrt = names_to_differentiate(problem, point, settings.wrt)
    task = ProblemTask(name, problem, point, wrt, {name: load_estimator(name) for name in expanded(estimators)})
    _try_objective(task, _distribution(task), settings.seed)
    return task


def _distribution(task: ProblemTask) -> Any:
    """The problem's distribution at its point, whose parameters are allowed."""
    with usage(f"--problem {task.name}: distribution{_hint(task)}", Exception):
        with validation_enabled(False):
            q = task.problem.distribution(task.point)
        _check_arguments(q)
        with validation_enabled():
            return task.problem.distribution(task.point)


def _hint(task: ProblemTask) -> str:
    """What is likely wrong where a problem's own functions fail."""
    if isinstance(task.problem, type):
        return " (a class: its functions take no self; or name an instance)"
    changed = [n for n, value in task.problem.params.items() if jnp.shape(value) != task.point[n].shape]
    return f" (--params {', '.join(changed)} has another shape than the default)" if changed else ""


def _check_arguments(q: Any) -> None:
    """Raises where a parameter of a NumPyro distribution breaks its constraint, and says which that is."""
    for name, constraint in getattr(q, "arg_constraints", {}).items():
        value = vars(q).get(name)
        try:
            allowed = value is None or np.all(constraint(value))
        except (ValueError, NotImplementedError):  # a constraint that depends on the other parameters, as low < high
            continue
        if not allowed:
            rule = type(constraint).__name__.strip("_")
            raise UsageError(
                f"--params: {name_of(q)} got {name} = {np.asarray(value).tolist()}, which is not allowed (it must be: "
                f"{rule}); give another value"
            )
    if hasattr(q, "base_dist"):
        _check_arguments(q.base_dist)


def _try_objective(task: ProblemTask, q: Any, seed: int) -> None:
    """Raises where the objective raises, or is nan or infinite for any of the first draws."""
    with usage(f"--problem {task.name}{_hint(task)}", Exception):
        check_draw(q, PILOT, "distribution")
        x = q.sample(jax.random.key(seed), (PILOT,))
        values = evaluate(partial(task.problem.objective, task.point), x, PILOT, "objective")
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        example = np.array2string(np.asarray(jax.tree.leaves(x)[0][bad[0]]), precision=4)
        raise UsageError(
            f"--problem {task.name}: objective is nan or infinite for {bad.size:,} of {PILOT:,} draws, as at x = {example}; "
            "make it finite wherever the distribution can draw"
        )


def to_rows(task: ProblemTask, measured: list[Measured]) -> list[dict[str, Any]]:
    """One row for each parameter coordinate, n and estimator, the exact values beside the measured."""
    exact = task.exact()
    rows = []
    for name in task.wrt:
        for i, label in enumerate(labels(name, task.point[name])):
            for n, moments in measured:
                low, high = moments.variance_interval()
                for estimator in task.estimators:
                    at = lambda tree, e=estimator: float(np.ravel(tree[e][name])[i])  # noqa: B023
                    truth = exact[estimator]
                    rows.append({
                        "estimator": estimator,
                        "parameter": label,
                        "n": n,
                        "replicates": int(moments.count),
                        "mean": at(moments.mean),
                        "standard_error": at(moments.standard_error),
                        "variance": at(moments.variance),
                        "variance_low": at(low),
                        "variance_high": at(high),
                        "exact_mean": None if truth is None else float(np.ravel(truth.mean[name])[i]),
                        "exact_variance": None if truth is None else float(np.ravel(truth.variance(n)[name])[i]),
                    })  # fmt: skip
    return rows


def labels(name: str, value: Any) -> list[str]:
    """`loc` for a number, `loc[0]`, `loc[1]` for an array."""
    shape = jnp.shape(value)
    return [f"{name}[{','.join(map(str, index))}]" if shape else name for index in np.ndindex(*shape)]


@contextmanager
def usage(where: str, *kinds: type[Exception]) -> Iterator[None]:
    """An exception of these kinds as a UsageError: one line, with the place where a user's own code raised it."""
    try:
        yield
    except UsageError:
        raise
    except kinds as error:
        ours = isinstance(error, ValueError | TypeError | NotImplementedError) and "rgrad" in _raised_in(error)
        text = " ".join(str(error).split()) if ours else where_and_what(error)
        raise UsageError(f"{where}: {text}" if where else text) from None


def _raised_in(error: BaseException) -> str:
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return str(frame.tb_frame.f_globals.get("__name__", "")) if frame is not None else ""
