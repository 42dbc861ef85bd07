"""Moments over a grid of settings."""
