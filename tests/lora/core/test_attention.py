"""Attention over texts of any lengths, beside what PyTorch makes of each text alone."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from lora.core.attention import attend, layout_of

HEADS, WIDTH = 3, 24


@pytest.mark.parametrize("biased", [False, True], ids=["plain", "biased"])
@pytest.mark.parametrize("behind", [0, 5])
def test_every_text_attends_to_itself_alone(behind: int, biased: bool) -> None:
    lengths = [1, 2, 15, 16, 17, 21, 22, 22, 31, 31, 31, 32, 38, 47, 48, 63, 64, 66]
    layout = layout_of(lengths)
    generator = torch.Generator().manual_seed(1)
    # Views of one product, as the layers give them, and tokens behind the last text.
    made = torch.randn(sum(lengths) + behind, 3 * WIDTH, generator=generator)
    query, key, value = made.split(WIDTH, 1)

    def bias(length: int) -> torch.Tensor:
        return torch.linspace(-1, 1, HEADS * length**2).view(HEADS, length, length)

    found = attend(query, key, value, HEADS, layout, bias if biased else None)
    assert found.shape == query.shape
    assert not found[sum(lengths) :].any()
    for start, length in zip(layout.offsets, lengths, strict=False):
        q, k, v = (
            part[start : start + length].view(length, HEADS, -1).transpose(0, 1).double()
            for part in (query, key, value)
        )
        mask = bias(length).double() if biased else None
        wanted = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(0, 1)
        torch.testing.assert_close(
            found[start : start + length].double(), wanted.reshape(length, WIDTH), atol=1e-5, rtol=0
        )


def test_a_text_that_is_no_number_spoils_no_other() -> None:
    lengths = [22, 22, 30, 40]
    layout = layout_of(lengths)
    made = torch.randn(sum(lengths), WIDTH, generator=torch.Generator().manual_seed(1))
    spoiled = made.clone()
    spoiled[22:44] = torch.nan
    found = attend(spoiled, spoiled, spoiled, HEADS, layout)
    assert found[22:44].isnan().all()
    kept = torch.ones(len(made), dtype=torch.bool)
    kept[22:44] = False
    assert torch.equal(found[kept], attend(made, made, made, HEADS, layout)[kept])
