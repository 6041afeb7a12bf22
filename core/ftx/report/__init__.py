"""Pages that hold all they show."""
