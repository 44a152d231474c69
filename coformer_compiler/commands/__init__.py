"""What the subcommands of `coformerc` do, one a file; the command line only parses."""
