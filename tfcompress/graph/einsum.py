"""Names of the axes in the equations of Einstein summations."""

from __future__ import annotations


def axis_names(term: str, rank: int) -> list[str]:
    """Name the axes of one operand of an equation.

    Args:
        term: The letters of the operand, with an ellipsis or without.
        rank: Rank of the operand.

    Returns:
        A name for each axis: its letter, or, under an ellipsis, `"...1"` for the last one, so that
        names meet as in broadcasting.
    """
    elided = rank - len(term.replace("...", ""))
    before, _, after = term.partition("...")
    return [*before, *(f"...{elided - i}" for i in range(elided)), *after]


def dense_axis_names(equation: str, rank: int) -> tuple[list[str], list[str], list[str]]:
    """Name the axes of the input, the kernel and the output of an `EinsumDense` layer.

    Args:
        equation: Its equation, such as `"...x,xy->...y"`.
        rank: Rank of the input.
    """
    source, kernel, target = equation.replace(" ", "").replace("->", ",").split(",")
    elided = rank - len(source.replace("...", ""))
    target_rank = len(target.replace("...", "")) + elided
    return axis_names(source, rank), list(kernel), axis_names(target, target_rank)
