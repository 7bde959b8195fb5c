"""`python -m remainder`: the command line."""

from remainder.cli.main import main

main()
