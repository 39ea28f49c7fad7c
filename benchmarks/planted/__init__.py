"""Models whose forgetting is known, because it was planted: rows, tiny models, the model that plants, and what the verdict should say."""
