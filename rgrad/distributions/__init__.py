"""Operations on a distribution `q`: draws, log density, support, quantiles, entropy, and the noise behind a sample."""

from rgrad.distributions.draws import check_draw, evaluate
from rgrad.distributions.wrappers import name_of

__all__ = ["check_draw", "evaluate", "name_of"]
