"""Sonotag's service: sound in over REST or a websocket, tags and events out."""
