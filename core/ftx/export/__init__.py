"""Models out: exact export, merging, and the proof that both are right."""
