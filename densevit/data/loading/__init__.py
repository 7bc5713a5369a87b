"""From samples to batches: samplers, worker processes, resumable loaders."""
