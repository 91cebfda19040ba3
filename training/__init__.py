"""Learning: the stages of training, and where a run stands on disk."""
