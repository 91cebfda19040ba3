"""TrainingData: how it is collected, kept on disk and sampled."""
