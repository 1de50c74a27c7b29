"""What a call means: each task is an async function over an `Engine`."""

from everloop.tasks.choices import Choice, Choices, Collected
from everloop.tasks.complete import complete
from everloop.tasks.converse import converse
from everloop.tasks.edit import edit

__all__ = ["Choice", "Choices", "Collected", "complete", "converse", "edit"]
