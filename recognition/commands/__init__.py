"""One file a command, each with main(argv); nothing imports this room but the doors."""
