"""Compiler options and flags that make XLA correct and fast, and the noise from which samples are made."""
