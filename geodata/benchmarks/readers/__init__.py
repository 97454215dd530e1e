"""What the readers of several data sets have in common."""
