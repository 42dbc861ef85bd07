"""Stochastic gradient descent on an objective that takes a key."""
