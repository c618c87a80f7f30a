"""`python -m foundry_cli`: the `foundry` command where its script is not on the path."""

from foundry_cli.main import main

main()
