"""Read, clean, deduplicate, split and pack text; turn examples of every format into messages."""
