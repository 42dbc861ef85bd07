"""Comparison of estimators: which one is best for its cost, and whether any of them is biased."""
