"""Pixels: decoding, photos, operations, augmentation, and the input of a network."""
