"""One frozen base and its adapters: loading, views, log-probabilities, scores, answers."""
