"""Before and after: what a training changed, by questions and by held-out rows."""
