"""`python -m app.cli`: the command without its script, for processes that start it again."""

from app.cli.commands import main

main()
