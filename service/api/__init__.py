"""The edges: REST, websocket, health. A handler parses, calls, returns."""
