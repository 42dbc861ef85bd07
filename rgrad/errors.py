"""What an estimator raises if it cannot be used for a distribution, an objective or a number of samples."""


class NotApplicable(Exception):
    """This estimator does not apply here.

    Estimators raise one of its subclasses, which are built-in exceptions too, as `NoRule(cause)` or `NoRule(cause, advice)`.
    If there is no advice, `rgrad.expect` and the functions built on it add the names of the estimators that do apply. Code that tries estimators one after another catches
    this class and no other, so that a bug in an objective is never taken for an estimator that does not apply:

        for name, estimator in candidates.items():
            try:
                jax.eval_shape(jax.grad(partial(loss, estimator=estimator)), params, key)
            except rgrad.NotApplicable as error:
                print(f"{name} is left out: {error}")

    Raise it in an estimator of your own if that is not made for the `q`, `f` or `n` that it gets.
    """

    def __str__(self) -> str:
        return "; ".join(map(str, self.args))


class NoDerivative(NotApplicable, TypeError):
    """`q` or `f` has no derivative, and the estimator needs one."""


class NoRule(NotApplicable, NotImplementedError):
    """The estimator has no rule for `q`, for one of its parameters, or for derivatives of this order."""


class Unsuitable(NotApplicable, ValueError):
    """A value rules the estimator out: too few samples for a baseline, a support with too many points, dependent draws."""
