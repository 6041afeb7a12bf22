"""Apps: made for a model, checked against what it answers, and run."""
