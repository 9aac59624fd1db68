"""Commands that make, pack and check data sets."""
