"""`python -m rarefy.cli`."""

from rarefy.cli import main

main()
