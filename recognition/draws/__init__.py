"""Random numbers as functions: hashing, permutation, rounding."""
