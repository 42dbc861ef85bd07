"""What policy gradients need beside the score function: advantages, returns, and penalties for leaving a reference."""
