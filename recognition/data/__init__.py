"""Packed records, image folders, and the batches made of them."""
