"""The OpenC2 Consumer daemon."""
