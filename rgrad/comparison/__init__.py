"""Which estimator is best for its cost, and is one of them biased?"""
