"""Face recognition with the class-centre matrix sharded over ranks."""
