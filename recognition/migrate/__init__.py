"""From arcface_torch: its configs and its checkpoints."""
