"""The only room in which torch.distributed is spelled."""
