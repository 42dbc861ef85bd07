"""Moments of many independent calls, in constant memory, and the exact values beside them."""
