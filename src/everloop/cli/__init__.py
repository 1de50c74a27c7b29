"""One typed function a command; parses, prints, exits."""
