"""The only room that uses torch.distributed."""
