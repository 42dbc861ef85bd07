"""Analysis of traced functions: what their outputs depend on, where an array comes from, and Jacobians."""
