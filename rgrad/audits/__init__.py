"""An audit of a loss: whether its gradient is right, and if not, where it is cut."""
