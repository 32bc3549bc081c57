"""Who may come in, for what, and how much of it: API keys, tokens, quotas, origins. It knows no web framework."""
