"""Cleaning a training set: decisions about its pictures, and the page on which a person reviews them."""
