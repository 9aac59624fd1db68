"""Verification metrics, protocols and scripts."""
