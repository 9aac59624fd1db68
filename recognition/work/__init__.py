"""Output that survives a kill: files, journals, threads, processes."""
