"""Floor 3, host room `data/tasks`: problems made up by the program, with answers, demonstrations and leak-proof splits."""
