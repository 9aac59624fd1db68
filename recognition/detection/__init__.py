"""Find faces and move them to the position that the networks expect."""
