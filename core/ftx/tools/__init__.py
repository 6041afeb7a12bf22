"""The tools of XTuner's old chat, for models trained on MOSS's plugin data."""
