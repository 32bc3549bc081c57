import io

import pytest
from rich.console import Console

from export.card import write_card
from export.report import print_report
from service.inference.bundle import Manifest, ParityCheck, open_bundle
from tests.support.shared import REPOSITORY


@pytest.fixture
def manifest() -> Manifest:
    return open_bundle(REPOSITORY / "service" / "bundles" / "ast-tiny-16-16-5s").manifest


def change(manifest: Manifest, checks: tuple[ParityCheck, ...], *, final: bool) -> Manifest:
    entry = manifest.precisions["fp32"]
    parity = entry.parity.model_copy(update={"checks": (*entry.parity.checks, *checks), "final": final})
    return manifest.model_copy(update={"precisions": {"int8": entry.model_copy(update={"parity": parity})}})


def render(manifest: Manifest) -> str:
    screen = io.StringIO()
    print_report(manifest, Console(file=screen, width=200))
    return " ".join(screen.getvalue().split())


def test_the_report_shows_every_signal_every_limit_and_the_provider(manifest: Manifest) -> None:
    served = {precision: entry for precision, entry in manifest.precisions.items() if entry.parity.final}
    text = render(manifest.model_copy(update={"precisions": served}))
    for expected in ("measured on CPU", "DC offset", "full-scale square", "over-long", "≤ 0.0005", "≤ 0.0001", "ragged batch"):
        assert expected in text
    assert "not the provider" not in text


def test_the_report_says_what_was_not_measured_where_it_serves(manifest: Manifest) -> None:
    check = ParityCheck(check="top-1 agreement", signal="9 clips", measured=0.99, limit=0.97, at_least=True)
    text = render(change(manifest, (check,), final=False))
    assert "not the provider that serves it" in text
    assert "≥ 0.97" in text


def test_the_card_states_the_numbers_and_then_what_the_checkpoint_says(manifest: Manifest) -> None:
    card = write_card(manifest, "# Title\n\nWords.\n\n## Limits\n- few clips\n")
    assert card.startswith("# ast-tiny-16-16-5s\n")
    assert "82,160 samples (5.135 s, 512 frames of 128-bin log-mel)" in card
    assert manifest.source.sha256 in card
    assert "| fp32 | fused | cpu |" in card
    assert card.endswith("## The checkpoint's own card\n\nWords.\n\n### Limits\n- few clips\n")


def test_the_card_of_int8_says_that_a_batch_is_scaled_together(manifest: Manifest) -> None:
    card = write_card(change(manifest, (), final=False), None)
    assert "scales the activations of a batch together" in card
    assert "(not the one that serves it)" in card
    assert "own card" not in card
