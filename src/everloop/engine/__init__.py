"""Tokens out of a model: one interface, two implementations, `native` and `remote`."""
