"""The references of an estimator. A reference counts only if a second one, of another kind, confirms it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from rgrad.comparison.judged import BIASED, JUMPS, UNBIASED, UNKNOWN, VISIBLE, Judged, no_verdict
from rgrad.comparison.verdicts import EFFECTIVE, Mean, judge

THROUGH_F = frozenset(
    {"path", "generalized", "rejection"}
)  # kinds that differentiate f: they are not evidence if f jumps
EXACT = "the exact gradient"
Marks = np.ndarray[Any, Any]


class Witness(NamedTuple):
    """An estimator, or the exact gradient, as evidence of the true gradient."""

    name: str
    kind: str
    """Two witnesses of the same kind can be wrong in the same way."""
    mean: Mean
    heavy: Marks
    constant: bool


def judge_all(found: Mapping[str, Any], task: Any) -> dict[str, Judged]:
    """The verdict on every estimator that was asked for, in all of its coordinates.

    Each reference may be wrong. Quadrature misses features that are narrower than the distance between its nodes, the
    score of a rounded sample is wrong, and a gradient through f misses its jumps. Therefore, in each coordinate:

    - A reference counts if a reference of another kind agrees with it, as far as the noise of both allows. The exact
      gradient must also agree with the score function, which can be wrong in other ways than quadrature.
    - An estimator is "BIASED" if it differs from such a reference, and from a second one that agrees with the
      reference.
    - It is "unbiased so far" if it agrees with the reference. It may itself be the one that confirms the reference.
    - It is disputed if there is no verdict and a witness of another kind has a significantly different mean. One of the
      two must then be wrong.

    References that the user gives (`compare(losses, references=...)`) need no confirmation. But if they differ, there
    is no verdict.
    """
    size = len(task.labels)
    verdicts = _by_given(found, task, size) if not task.kinds else _Panel(found, task, size).verdicts()
    if task.jumping is not None:
        for name, of in verdicts.items():
            codes, reasons = (np.where(task.jumping, *pair) for pair in ((UNKNOWN, of.codes), (JUMPS, of.reasons)))
            verdicts[name] = of._replace(codes=codes, reasons=reasons, labels=task.labels)
    return verdicts


def _by_given(found: Mapping[str, Any], task: Any, size: int) -> dict[str, Judged]:
    """The verdicts by the first reference that was given. The first is judged by the second."""
    tests, eps, verdicts = size * sum(name in task.judges for name in task.asked), _eps(), {}
    for name in task.asked:
        other = task.judges.get(name)
        if other is None:
            verdicts[name] = no_verdict(size, "no reference")
            continue
        heavy = found[name].heavy | found[other].heavy
        of = judge(found[name].mean, found[other].mean, tests, eps, task.jump is not None, heavy)
        verdicts[name] = of._replace(by=(f"{other}, from independent samples",))
    given = set(task.judges.values()) & set(verdicts)
    if len(given) > 1:
        differ = _any([verdicts[name].codes == BIASED for name in given], size)
        why = f"the references {' and '.join(sorted(given))} differ"
        verdicts = {name: of.untold(differ, why) for name, of in verdicts.items()}
    return verdicts


class _Panel:
    """The witnesses of one comparison, their agreement with one another, and the references among them."""

    def __init__(self, found: Mapping[str, Any], task: Any, size: int):
        self.found, self.task, self.size = found, task, size
        self.tests, self.jump = size * len(task.asked), task.jump is not None
        self._kept: dict[tuple[str, str, bytes], Judged] = {}
        kinds = {name: task.kinds.get(name) for name in found}
        self.witnesses = {
            name: Witness(name, kind, found[name].mean, found[name].heavy, found[name].constant)
            for name, kind in kinds.items()
            if kind is not None and kind != "exact" and not (self.jump and kind in THROUGH_F)
        }
        if task.exact is not None:
            nothing = np.zeros(size, bool)
            self.witnesses[EXACT] = Witness(EXACT, "exact", Mean.exact(task.exact), nothing, True)
        names = [EXACT, *task.references]
        self.references = [self.witnesses[name] for name in names if name in self.witnesses]

    def verdicts(self) -> dict[str, Judged]:
        return {name: self._verdict(name) for name in self.task.asked}

    def _verdict(self, name: str) -> Judged:
        size, entry, kind = self.size, self.found[name], self.task.kinds.get(name)
        able = [r for r in self.references if r.name != name and not (r.kind == kind == "exact")]
        why = "no reference" if not able else "no second reference confirms " + " or ".join(r.name for r in able)
        out, by, still = no_verdict(size, why), [], np.ones(size, bool)
        for reference in able:
            seconds = self._seconds(reference)
            others = {other: agrees for other, agrees in seconds.items() if other != name}
            confirmed = still & _any(seconds.values(), size)
            if not confirmed.any():
                continue
            by.append(
                f"{reference.name} (confirmed by {', '.join(other for other, agrees in seconds.items() if agrees.any())})"
            )
            # An estimate of 0 in every draw is judged if rare draws cannot account for the known gradient.
            silent = (entry.mean.error == 0) & (reference.kind == "exact") & _any(others.values(), size)
            silent &= self.task.rarest * self.task.n * float(np.max(entry.moments.count)) >= EFFECTIVE
            of = self._judged(name, entry, reference, silent)
            by_others = {other: self._judged(name, entry, self.witnesses[other], silent) for other in others}
            twice = _any([agrees & (by_others[o].codes == BIASED) for o, agrees in others.items()], size)
            least = np.full(size, np.inf)
            for other, agrees in others.items():
                least = np.where(agrees, np.minimum(least, by_others[other].smallest_bias), least)
            smallest = np.where(np.isfinite(least), np.maximum(of.smallest_bias, least), of.smallest_bias)
            enough = smallest <= np.maximum(np.maximum(np.abs(reference.mean.mean), entry.mean.sd), of.smallest_bias)
            enough |= reference.kind == "exact"
            once = (of.codes == BIASED) & ~twice
            of = of.untold(once, f"differs from {reference.name}, but not significantly from a second reference")
            weak = (of.codes == UNBIASED) & ~enough
            of = of._replace(
                codes=np.where(weak, UNKNOWN, of.codes),
                smallest_bias=smallest,
                reasons=np.where(weak, VISIBLE, of.reasons),
                numbers=np.where(weak, smallest, of.numbers),
            )
            out = out.updated(confirmed, of)
            still &= ~confirmed
        return self._with_disputes(name, out._replace(by=tuple(by)))

    def _with_disputes(self, name: str, of: Judged) -> Judged:
        """The same verdicts. Where there is none and a witness of another kind differs, `why` names that witness."""
        kind, disputed = self.task.kinds.get(name), np.zeros(self.size, bool)
        for other in self.witnesses.values():
            if other.name == name or kind == other.kind:
                continue
            by_other = self._judged(name, self.found[name], other, np.zeros_like(disputed))
            differs = (by_other.codes == BIASED) & (of.codes == UNKNOWN) & ~disputed
            of = of.untold(differs, f"differs from {other.name}, and it is not known which is right")
            disputed |= differs
        return of._replace(disputed=bool(disputed.any()))

    def _seconds(self, reference: Witness) -> dict[str, Marks]:
        """The witnesses of other kinds that agree with a reference, and in which coordinates."""
        seconds, contradicted = {}, np.zeros(self.size, bool)
        for other in self.witnesses.values():
            if other.kind == reference.kind:
                continue
            of = self._judged(other.name, other, reference, np.zeros(self.size, bool))
            if reference.kind == "exact":
                if other.constant:  # e.g. 0 through f, which quadrature also gives for a narrow step between its nodes
                    continue
                contradicted |= (of.codes == BIASED) & (other.kind == "score")
            seconds[other.name] = of.codes == UNBIASED
        return {name: agrees & ~contradicted for name, agrees in seconds.items()}

    def _judged(self, name: str, one: Any, other: Witness, silent: Marks) -> Judged:
        key = (name, other.name, silent.tobytes() if silent.any() else b"")
        if key not in self._kept:
            # An estimator that does not differentiate f may have too few draws even if f jumps.
            jump = self.jump and (self.task.kinds.get(name) or "path") in THROUGH_F
            heavy = one.heavy | other.heavy
            self._kept[key] = judge(one.mean, other.mean, self.tests, _eps(), jump | silent, heavy)
        return self._kept[key]


def _eps() -> float:
    return float(jnp.finfo(jnp.result_type(float)).eps)


def _any(marks: Any, size: int) -> Marks:
    return np.any(np.array([*marks, np.zeros(size, bool)]), 0)
