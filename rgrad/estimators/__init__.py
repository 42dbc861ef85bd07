"""The estimators. Each is a function `(f, q, key, n, **options) -> terms`. `rgrad.estimators.table` lists them."""
