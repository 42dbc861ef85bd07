"""Comparison of estimators: which one is best for its cost, and is any of them biased?"""
