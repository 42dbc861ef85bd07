"""One question, one module, one figure: `python -m experiments.<question>`."""
