"""Comparisons that need torch, transformers, OpenVINO or LiteRT: `python -m bench`. Nothing of service or export imports it."""
