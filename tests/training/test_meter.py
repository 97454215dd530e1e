"""Counted work against the arithmetic of the published sizes, warnings against curves that have the trouble."""

import pytest
import torch

from training import meter
from training.encoders import vit
from training.methods import mae
from training.record import DIVERGED, Watch


@pytest.mark.parametrize(
    ("encoder", "billions"),
    [(vit.vit_b12x1, 4.3 + 5.4), (vit.l12x4, 30.4 + 5.4), (vit.h12x4, 68.3 + 5.4), (vit.g12x4, 121.3 + 5.4)],
)
def test_a_forward_pass_has_the_published_multiplications(encoder, billions):
    """At 224 px with a quarter seen; a batch of eight, since parallel branches join their weights once a batch."""
    with torch.device("meta"):
        model = mae.build(mae.Spec(encoder=encoder()))
        with meter.forward_flops() as found:
            model.losses(torch.zeros(8, 3, 224, 224), torch.rand(8, 196))
    assert found[0] / 2 / 8 / 1e9 == pytest.approx(billions, rel=0.01)


def test_attention_counts_on_the_processor_too():
    query = torch.randn(2, 3, 50, 16)
    with meter.forward_flops() as found:
        torch.nn.functional.scaled_dot_product_attention(query, query, query)
    assert found[0] == 2 * (2 * 3 * 50 * 50 * 16) * 2  # two products, two operations a multiplication


def test_only_the_counted_step_is_counted_and_compiled_code_is_seen():
    map_ = torch.nn.Linear(64, 32, bias=False)
    map_.compile(backend="eager")
    gauge = meter.Meter("cpu", "fp32")
    for _ in range(2):  # two parts of one step
        with gauge.forward():
            map_(torch.randn(10, 64))
    map_(torch.randn(10, 64))
    assert gauge.flops == 2 * 3 * 2 * 10 * 64 * 32
    numbers = gauge.numbers(steps=5, seconds=2.0)
    assert numbers["mfu"] == pytest.approx(gauge.flops * 5 / 2.0 / gauge.peak, abs=1e-4)
    assert 0.05 < numbers["memory_gb"] < 64


def test_what_no_gradient_goes_through_counts_once():
    """Attention too, whose count is not torch's own; the oracle is the arithmetic of the products."""
    map_, query = torch.nn.Linear(64, 32), torch.randn(2, 3, 50, 16)
    product, attention = 2 * 10 * 64 * 32, 2 * 2 * (2 * 3 * 50 * 50 * 16)
    gauge = meter.Meter("cpu", "fp32")
    with gauge.forward():
        map_(torch.randn(10, 64))
        torch.nn.functional.scaled_dot_product_attention(query, query, query)
        with torch.no_grad():
            map_(torch.randn(10, 64))
            torch.nn.functional.scaled_dot_product_attention(query, query, query)
    assert gauge.flops == 4 * (product + attention)


def test_a_published_peak_is_taken_by_the_devices_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert meter.peak_rate("cuda:0", "bf16") == 989e12


def test_a_loss_that_leaves_its_best_is_said_once():
    watch, said = Watch(), []
    for loss in [3.0, 2.0, 1.5, 1.2, 1.1, 1.0] + [4.0] * 10:
        said += watch.look(loss, 0.0)
    assert len(said) == 1
    assert "risen to" in said[0]


def test_noise_and_a_slow_fall_are_no_divergence():
    generator = torch.Generator().manual_seed(0)
    watch = Watch()
    for step in range(300):
        loss = 1.0 + 2.0 * 0.99**step + 0.2 * torch.randn((), generator=generator).item()
        assert watch.look(loss, 0.1) == []
    assert DIVERGED > 1.2


def test_waiting_for_data_is_said_when_it_lasts_and_again_after_it_passed():
    watch = Watch()
    said = [bool(watch.look(1.0, share)) for share in (0.9, 0.1, 0.5, 0.5, 0.5, 0.5, 0.0, 0.4, 0.4, 0.4)]
    assert [index for index, loud in enumerate(said) if loud] == [4, 9]
