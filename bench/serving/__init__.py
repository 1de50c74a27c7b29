"""Processes that bench/server.py starts: the client, and an engine that only waits."""
