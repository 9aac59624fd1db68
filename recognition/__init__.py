"""Face recognition with the class-center matrix sharded over ranks."""
