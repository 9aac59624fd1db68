"""People drawn by a program, for demos and tests."""
