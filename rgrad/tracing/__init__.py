"""What the trace of a program shows: what its outputs depend on, where they come from, and its Jacobian."""
