"""Pixels: decoding, photos, operations, augmentation, and what a network is fed."""
