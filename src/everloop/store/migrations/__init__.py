"""Numbered, append-only steps from an empty database to today's; run when it is opened."""
