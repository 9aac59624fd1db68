"""Find faces and bring them into the position the networks expect."""
