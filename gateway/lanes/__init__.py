"""The life of a provider batch: grouping, submission, doubt, polling, ingestion, deadlines."""
