"""The estimators: each is a function `(f, q, key, n, **options) -> terms`, in the file of its family. `table` lists them."""
