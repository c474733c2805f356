"""Pictures of recorded episodes and of a training."""
