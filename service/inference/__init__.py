"""The engine: bundles, runners and the batcher that many callers share."""
