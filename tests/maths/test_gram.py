import pytest
import torch

from rarefy.maths.gram import add_gram, mirror


@pytest.mark.parametrize("d", [1, 2, 3, 7, 64, 577])
def test_a_sum_of_parts_is_the_gram_matrix_of_all(d: int) -> None:
    x = torch.randn(50, d, generator=torch.Generator().manual_seed(d))
    total = torch.zeros(d, d)
    for part in x.split(20):
        add_gram(total, part)
    torch.testing.assert_close(mirror(total), x.T @ x)


def test_products_of_bfloat16_are_exact() -> None:
    x = (torch.randn(4096, 576, generator=torch.Generator().manual_seed(0)) * 3).bfloat16()
    total = torch.zeros(576, 576)
    add_gram(total, x)
    expected = x.double().T @ x.double()
    assert float((mirror(total) - expected).norm() / expected.norm()) < 2e-6


def test_float32_is_not_rounded_to_bfloat16() -> None:
    x = torch.randn(512, 576, generator=torch.Generator().manual_seed(0))
    total = torch.zeros(576, 576)
    add_gram(total, x)
    expected = x.double().T @ x.double()
    assert float((mirror(total) - expected).norm() / expected.norm()) < 2e-6
    before = torch.full((2, 2), 1 + 2**-20) @ torch.eye(2)
    add_gram(torch.zeros(2, 2), torch.ones(1, 2).bfloat16())
    assert torch.equal(torch.full((2, 2), 1 + 2**-20) @ torch.eye(2), before)  # other products stay as they were
    assert float(before[0, 0]) == 1 + 2**-20
