"""Everloop 生生: the GPT-4 API that you own."""

__version__ = "0.1.0"
