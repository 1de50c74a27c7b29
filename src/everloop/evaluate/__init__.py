"""How good a model is, beside a simple baseline."""
