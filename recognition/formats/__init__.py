"""The field's files, byte by byte: records, indexes, lists, pairs. Imports neither config nor feed."""
