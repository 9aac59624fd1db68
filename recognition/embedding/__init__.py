"""Faces into vectors, and where the vectors are kept."""
