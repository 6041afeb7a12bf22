"""Publishing: what may leave, how it is sent, and how it is known to have arrived."""
