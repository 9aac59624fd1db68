"""Grouping embeddings by their cosines: a similarity graph, Chinese whispers on it, and scores of a partition."""
