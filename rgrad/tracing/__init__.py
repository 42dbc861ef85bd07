"""What a traced program depends on, and what its Jacobian is, read from the trace."""
