"""Is this gradient right, and if not, where is it cut?

python -m experiments.audit --loss mine.py:loss --params mine.py:params
"""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from experiments.common.errors import nearest
from experiments.common.settings import INTEGER, ONCE, ExperimentSettings

GALLERY = (
    "bit by where",
    "class by argmax",
    "batch mean as baseline",
    "normalised advantages",
    "leave-one-out baseline",
    "straight-through",
    "clipped ratio (PPO)",
    "weights differentiated twice",
    "k1 as a loss",
    "k2 as a loss",
    "k3 as a loss",
    "ELBO, wrong term detached",
    "ELBO, sticking the landing",
    "ELBO, KL of the wrong sign",
    "custom_vjp, twice too large",
    "perturbed argmax without 1/sigma",
)


class AuditSettings(ExperimentSettings):
    """Audits the gradient of a loss: compares its mean with the derivative of the mean value, and finds where it is cut.

    Without --loss and --params, it audits a gallery of losses: common mistakes, and three losses that are right.
    """

    loss: str | None = None
    """Your loss(params, key) -> scalar, as package.module:function or file.py:function."""
    params: str | None = None
    """The point: a pytree of floats, as package.module:attribute or file.py:attribute."""
    value: str | None = None
    """The objective value(params, key) -> scalar, as file.py:function, if the value of the loss does not estimate it. Default: the loss."""
    wrt: Annotated[tuple[str, ...], ONCE] = ()
    """Parameters to audit, as dotted paths. Default: all."""
    has_aux: bool = False
    """The loss and the value return (scalar, anything)."""
    order: Annotated[Literal[1, 2], INTEGER] = 1
    """2 also audits second derivatives."""
    budget: Annotated[float, Field(gt=0, le=1e6)] = 10.0
    """Seconds of measurement for each loss, at most. Compilation is not included: it takes 1 to 5 more."""
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """The largest bias that is ok, relative to the derivative."""
    demo: bool = False
    """Audit the gallery. This is the default if there is no --loss."""
    gallery: Annotated[tuple[str, ...], Field(min_length=1), ONCE] = GALLERY
    """The losses of the gallery to audit, by name. Default: all."""

    @field_validator("gallery")
    @classmethod
    def _gallery(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in GALLERY:
                raise ValueError(f"unknown name {name!r}{nearest(name, GALLERY)}")
        return names
