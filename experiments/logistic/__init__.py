"""How much does the choice of gradient matter on a real posterior? Bayesian logistic regression, checked against NUTS.

python -m experiments.logistic
"""

from experiments.common.runner import run_of
from experiments.logistic.settings import LogisticSettings

run = run_of(__name__, LogisticSettings)

__all__ = ["LogisticSettings", "run"]
