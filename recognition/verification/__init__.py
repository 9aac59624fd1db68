"""Protocols, metrics and reports of face verification."""
