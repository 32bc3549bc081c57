"""The model card that a bundle carries."""

from __future__ import annotations

import re

from service.inference.bundle import Manifest


def write_card(manifest: Manifest, checkpoint_card: str | None) -> str:
    """Return a bundle's ``README.md``: what it is, how close it is to its checkpoint, and what its checkpoint says.

    Args:
        manifest: The bundle's.
        checkpoint_card: The checkpoint's own card, which states the training and the limits; None where it has none.
    """
    architecture, source = manifest.architecture, manifest.source
    frames = f"{architecture.max_length} frames of {architecture.num_mel_bins}-bin log-mel"
    rows = {
        "architecture": f"Audio Spectrogram Transformer: hidden {architecture.hidden_size}, {architecture.num_layers} layers, "
        f"{architecture.num_heads} heads, patches {architecture.patch_size}x{architecture.patch_size} with stride "
        f"{architecture.frequency_stride} in frequency and {architecture.time_stride} in time",
        "parameters": f"{architecture.num_parameters:,}",
        "input": f"{manifest.sample_rate} Hz mono, windows of {manifest.window_samples:,} samples "
        f"({manifest.window_samples / manifest.sample_rate:.3f} s, {frames})",
        "shorter windows": ", ".join(f"{n / manifest.sample_rate:.3f} s" for n in manifest.lengths_samples[:-1]) or "none",
        "output": f"{len(manifest.labels)} labels, {manifest.activation}",
        "checkpoint": f"{source.name} ({source.format} format), sha256 `{source.sha256}`",
        "licence": source.licence,
    }
    lines = [f"# {manifest.name}", "", "A model bundle for Sonotag.", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in rows.items()]
    lines += ["", "## How close it is to the checkpoint", ""]
    lines += ["Largest differences from transformers running the checkpoint in float32, over the signals of the export.", ""]
    lines += ["| precision | operators | measured on | logits | scores | top-1 agreement |", "|---|---|---|---|---|---|"]
    lines += [_parity_row(manifest, precision) for precision in manifest.precisions]
    if "int8" in manifest.precisions:
        lines += ["", "int8 scales the activations of a batch together; the service runs it one window at a time."]
    if checkpoint_card:
        lines += ["", "## The checkpoint's own card", "", _demote(checkpoint_card)]
    return "\n".join(lines) + "\n"


def _parity_row(manifest: Manifest, precision: str) -> str:
    entry = next(entry for name, entry in manifest.precisions.items() if name == precision)
    worst = {name: max(check.measured for check in entry.parity.checks if check.check == name) for name in ("logits", "scores")}
    agreement = min(check.measured for check in entry.parity.checks if check.check == "top-1 agreement")
    where = entry.parity.provider + ("" if entry.parity.final else " (not the one that serves it)")
    return f"| {precision} | {entry.operators} | {where} | {worst['logits']:.1e} | {worst['scores']:.1e} | {agreement:.1%} |"


def _demote(text: str) -> str:
    """Put a card's headings below ours, and leave out its title."""
    body = re.sub(r"\A\s*# .*\n", "", text).strip()
    return re.sub(r"^(#{1,5}) ", r"#\1 ", body, flags=re.MULTILINE)
