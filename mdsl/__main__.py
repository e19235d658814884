"""`python -m mdsl` is `mdsl`."""

from mdsl.cli import main

main()
