"""Floor 5: the `jaxreason` command. `main` reads the arguments; each subcommand has a room of its own."""
