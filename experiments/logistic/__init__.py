"""What is the choice of gradient worth on a real posterior? Bayesian logistic regression by ELBO, checked against NUTS.

python -m experiments.logistic
"""

from experiments.common.runner import run_of
from experiments.logistic.settings import LogisticSettings

run = run_of(__name__, LogisticSettings)

__all__ = ["LogisticSettings", "run"]
