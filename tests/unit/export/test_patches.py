from __future__ import annotations

import pytest
import torch

from export.patches import PatchConvolution, PatchProduct


@pytest.mark.parametrize("stride", [(10, 10), (12, 12), (14, 14), (16, 16), (10, 16)])
@pytest.mark.parametrize("num_frames", [16, 96, 101, 128])
def test_the_product_and_the_convolution_are_the_same(stride: tuple[int, int], num_frames: int) -> None:
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(24, 1, 16, 16, generator=generator)
    features = torch.randn(2, num_frames, 128, generator=generator)
    convolution = PatchConvolution(weight, stride)(features)
    product = PatchProduct(weight, stride, 128, max_length=128)(features)
    assert product.shape == convolution.shape == (2, ((128 - 16) // stride[0] + 1) * ((num_frames - 16) // stride[1] + 1), 24)
    torch.testing.assert_close(product, convolution, rtol=1e-4, atol=1e-4)


def test_patches_that_touch_need_no_gathering() -> None:
    program = torch.export.export(PatchProduct(torch.zeros(8, 1, 16, 16), (16, 16), 128, 96), (torch.zeros(2, 96, 128),))
    assert not [node for node in program.graph.nodes if "index" in str(node.target)]
