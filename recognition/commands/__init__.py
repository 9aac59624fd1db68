"""One file per command, each with main(argv); only the doors import this room."""
