"""What scripts/manuals is made of."""
