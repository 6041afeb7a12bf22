"""Layers that are computed together; read by `ftx plan` too, without torch."""

TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))  # they read one input
GATED = ("gate_proj", "up_proj", "down_proj")
WIDEST = 512  # columns of adapters behind 8-bit weights; with more, adding in 16 bits is as fast
