"""Frozen linear layers in 8 or 4 bits, so that adapters learn on a base that takes a quarter or an
eighth of the memory.

`int8` is LLM.int8 (Dettmers et al. 2022, arXiv:2208.07339): a scale for each row, large
activations apart. `nf4` is QLoRA's type with its double quantization (Dettmers et al. 2023,
arXiv:2305.14314). diffusers asks for a GPU to do this while it loads, so the layers are exchanged
here; they are quantized on the CPU, to the same bits everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Int8Params, Linear4bit, Linear8bitLt, Params4bit
from torch import Tensor, nn

OUTLIERS = 6.0
"""Activations beyond this are multiplied in full precision, the paper's value."""


class Int8Linear(Linear8bitLt):  # type: ignore[misc]
    """bitsandbytes' layer, frozen: (..., in) of any type to (..., out)
    of the type it was loaded in, as under autocast."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(
            layer.in_features,
            layer.out_features,
            False,
            has_fp16_weights=False,
            threshold=OUTLIERS,
            device="meta",
        )
        self._dtype = layer.weight.dtype
        self.weight = Int8Params(layer.weight.detach(), requires_grad=False).to("cpu")
        self.bias = layer.bias
        self.init_8bit_state()

    def forward(self, x: Tensor) -> Tensor:
        """Multiply. bitsandbytes would rewrite the bias in whatever type arrives."""
        result: Tensor = super().forward(x.to(self._dtype))
        return result

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Int8Linear:
        super()._apply(
            fn, recurse
        )  # moves the weight alone, when it is called by the module around this one
        self.state.CB, self.state.SCB = self.weight.data, fn(self.state.SCB)
        return self


class Nf4Linear(Linear4bit):  # type: ignore[misc]
    """bitsandbytes' layer, frozen: (..., in) of any type to (..., out)
    of the type it was loaded in, as under autocast."""

    def __init__(self, layer: nn.Linear) -> None:
        dtype = layer.weight.dtype
        super().__init__(
            layer.in_features, layer.out_features, False, dtype, quant_type="nf4", device="meta"
        )
        self.weight = Params4bit(layer.weight.detach(), quant_type="nf4", module=self).to("cpu")
        self.bias = layer.bias
        # On such a CPU the layer would rewrite its weights at the first evaluation into a form
        # that has no gradient.
        self.support_avx512bf16_for_cpu = False

    def forward(self, x: Tensor) -> Tensor:
        """Multiply."""
        result: Tensor = super().forward(x.to(self.compute_dtype))
        return result


KINDS: dict[str, Callable[[nn.Linear], nn.Module]] = {"int8": Int8Linear, "nf4": Nf4Linear}


def quantize(denoiser: nn.Module, kind: str) -> None:
    """Exchange every linear layer of a denoiser on the CPU, in place,
    by a frozen one of `kind`."""
    for name, layer in list(denoiser.named_modules()):
        if type(layer) is nn.Linear:
            denoiser.set_submodule(name, KINDS[kind](layer))
    marked: Any = denoiser
    marked.is_loaded_in_8bit, marked.is_loaded_in_4bit = (
        kind == "int8",
        kind == "nf4",
    )  # what peft asks for


def full_state(denoiser: nn.Module) -> dict[str, Tensor]:
    """Return a quantized denoiser's state by the names it had before,
    its linear weights back in float32."""
    state = denoiser.state_dict()
    for name, layer in denoiser.named_modules():
        if isinstance(layer, Int8Linear):
            state[f"{name}.weight"] = layer.weight.data * layer.state.SCB[:, None] / 127
        elif isinstance(layer, Nf4Linear):
            found = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
            state[f"{name}.weight"] = found.float()
    return state


def stored_bytes(denoiser: nn.Module) -> int:
    """Return the bytes of a denoiser's weights, with the scales of quantized ones."""
    found = sum(weight.nbytes for weight in denoiser.parameters())
    for layer in denoiser.modules():
        if isinstance(layer, Linear8bitLt):
            found += layer.state.SCB.nbytes
        elif isinstance(layer, Linear4bit):
            scales = layer.weight.quant_state
            found += scales.absmax.nbytes + scales.state2.absmax.nbytes
    return found


def weight_count(denoiser: nn.Module) -> int:
    """Return how many numbers a denoiser's weights stand for, however many fit into a byte."""
    return sum(
        weight.quant_state.shape.numel() if isinstance(weight, Params4bit) else weight.numel()
        for weight in denoiser.parameters()
    )
