"""Scores to tags and events. Pure."""
