"""From datasets to batches: order, sampling, workers, loader."""
