"""An OpenAI-compatible server over `ftx.talk`: one model, one answer at a time, the others in a bounded line."""
