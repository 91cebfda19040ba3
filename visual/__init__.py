"""Pictures, videos and the interactive page."""
