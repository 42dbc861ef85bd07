"""The parts of `.ci/gpu`: checks and measurements of rgrad on an NVIDIA GPU, and the processes that run them.

`table.py` lists the parts. Each part is a function of a `Context` in its own module. None of the modules needs tyro or
pydantic, and only those of the parts import JAX.
"""
