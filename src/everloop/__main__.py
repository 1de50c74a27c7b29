"""`python -m everloop` is the command `everloop`."""

from everloop.cli.main import main

main()
