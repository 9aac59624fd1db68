"""Margins and the sharded softmax head."""
