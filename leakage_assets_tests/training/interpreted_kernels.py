"""Compares each Triton kernel, run by Triton's interpreter (TRITON_INTERPRET=1), with its torch form."""

from __future__ import annotations

import torch

from leakage_assets.training import kernels, triton_kernels

TOKENS, FEATURES = 5, 2500  # more than two blocks of features, and a part of one


def main() -> None:
    torch.manual_seed(0)
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.bfloat16, 1e-2)):
        x, total, gate, up, grad = (torch.randn(TOKENS, FEATURES).to(dtype) for _ in range(5))
        mask = kernels.Dropout(2**31 - 5, 11, 0.3)
        assert torch.equal(triton_kernels.drop(x, mask), kernels.drop(x, mask))
        print("drop")
        # The interpreter multiplies with numpy, which has no bfloat16.
        half = torch.float32 if dtype == torch.float32 else torch.float16
        for rank in (3, 32):
            inner, outer = torch.randn(TOKENS, rank).to(half), torch.randn(rank, FEATURES).to(half)
            expected, found = total.to(half), total.to(half, copy=True)
            kernels.add_kept_product(expected, inner, outer, mask)
            triton_kernels.add_kept_product(found, inner, outer, mask)
            torch.testing.assert_close(found, expected, rtol=tolerance * 3, atol=tolerance * 10)
        print("add_kept_product")
        states = torch.randn(TOKENS, 3, 20).to(dtype)
        cos, sin = (table.to(dtype) for table in (torch.rand(TOKENS, 20), torch.rand(TOKENS, 20)))
        for name in ("rotate_rows", "rotate_rows_backward"):
            torch.testing.assert_close(
                getattr(triton_kernels, name)(states, cos, sin),
                getattr(kernels, name)(states, cos, sin),
                rtol=tolerance,
                atol=tolerance * 2,
            )
            print(name)
        torch.testing.assert_close(
            triton_kernels.gated(gate, up), kernels.gated(gate, up), rtol=tolerance, atol=tolerance
        )
        print("gated")
        for one, other in zip(
            triton_kernels.gated_backward(grad, gate, up), kernels.gated_backward(grad, gate, up), strict=True
        ):
            torch.testing.assert_close(one, other, rtol=tolerance * 3, atol=tolerance * 3)
        print("gated_backward")
        logits, targets = torch.randn(3, 9000).to(dtype), torch.tensor([0, 4096, 8999])
        for one, other in zip(
            triton_kernels.cross_entropies(logits, targets), kernels.cross_entropies(logits, targets), strict=True
        ):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
        print("cross_entropies")
        given = torch.tensor(0.7), logits, targets, kernels.cross_entropies(logits, targets)[1]
        torch.testing.assert_close(
            triton_kernels.cross_entropies_backward(*given),
            kernels.cross_entropies_backward(*given),
            rtol=tolerance,
            atol=tolerance / 10,
        )
        print("cross_entropies_backward")


if __name__ == "__main__":
    main()
