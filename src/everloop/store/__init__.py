"""What Everloop remembers: database, keys, model registry."""
