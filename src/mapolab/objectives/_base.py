"""What goes into an objective, what comes out, and what all of them log."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import ClassVar, Self

import torch
from torch import Tensor

from mapolab.errors import UserError


@dataclass(frozen=True)
class PairErrors:
    """Errors of B pairs: mean squared error of the UNet's prediction over C, H, W, each (B,).

    chosen, rejected: under the model in training. reference_chosen, reference_rejected: under the frozen reference,
    at the same noise and timestep. What a method does not need is None.
    labels: 1, the chosen image is preferred, or a single image (with no rejected one) is liked; 0, a single image is
    disliked; 0.5, a tie; between 0.5 and 1, the probability that the chosen image is preferred. None: all 1.
    weights: factors of the per-sample losses. None: all 1.
    chosen_reference_product, chosen_rejected_product: mean over C, H, W of (prediction - target) on the chosen image
    times that of the reference on it, and times that of the model on the rejected image.
    """

    chosen: Tensor
    rejected: Tensor | None = None
    reference_chosen: Tensor | None = None
    reference_rejected: Tensor | None = None
    labels: Tensor | None = None
    weights: Tensor | None = None
    chosen_reference_product: Tensor | None = None
    chosen_rejected_product: Tensor | None = None


@dataclass
class ObjectiveResult:
    """loss: scalar, to be minimised. per_sample: (B,), detached, its mean is the loss. logs: detached scalars."""

    loss: Tensor
    per_sample: Tensor
    logs: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """What a file of conf/objective/ names: fields are its settings, class attributes say what it needs.

    learns_from: "pairs" for a loss on given images; "samples" for one on images that the model draws as it learns.
    """

    learns_from: ClassVar[str] = "pairs"
    needs_reference: ClassVar[bool] = False
    has_batch_statistic: ClassVar[bool] = False  # a sample's loss depends on the others of its forward pass

    def __post_init__(self) -> None:
        for setting in fields(self):
            allowed = setting.metadata.get("allowed")
            value = getattr(self, setting.name)
            if allowed is not None and not allowed.includes(value):
                raise UserError(f"objective.{setting.name} is {value!r}; give {allowed.words}.")

    def over_ranks(self, mean: Callable[[Tensor], Tensor]) -> Self:
        """The method for training on several ranks; mean: averages a scalar over them."""
        return self


@dataclass(frozen=True)
class Objective(Method, ABC):
    """A loss as a pure function of per-pair errors."""

    needs_rejected: ClassVar[bool] = True
    needs_products: ClassVar[bool] = False  # the two products of PairErrors
    uses_ties: ClassVar[bool] = False
    uses_soft_labels: ClassVar[bool] = False  # else a pair's label is rounded to what is more likely
    needs_soft_labels: ClassVar[bool] = False  # without probabilities in the data it would be another method
    needs_inversion: ClassVar[str | None] = None  # the kind of noise (diffusion.noise) that the method is made for
    takes_single_images: ClassVar[bool] = False  # liked ones; with needs_rejected also disliked ones

    @abstractmethod
    def terms(self, errors: PairErrors) -> dict[str, Tensor]:
        """The loss terms, each (B,); the loss is the mean of their sum. errors: float64."""

    def __call__(self, errors: PairErrors) -> ObjectiveResult:
        """The loss of a batch of pairs, in the dtype of ``errors.chosen``.

        It is the plain mean of the weighted per-sample losses, not divided by the weights' sum, so that it does not
        depend on how the pairs of an optimizer step fall into forward passes and ranks.
        Raises UserError when errors are missing that the objective needs, or are no float tensors of one shape (B,).
        """
        self._check(errors)
        # The few scalars of a batch cost nothing in float64, and the links below lose digits in float32.
        exact = PairErrors(*(to_double(getattr(errors, item.name)) for item in fields(PairErrors)))
        terms = self.terms(exact)
        if exact.weights is not None:
            terms = {name: term * exact.weights for name, term in terms.items()}
        per_sample = sum(terms.values())
        dtype, device = errors.chosen.dtype, errors.chosen.device
        logs = {f"loss/{name}": term.detach().mean() for name, term in terms.items()} | self._pair_logs(exact)
        return ObjectiveResult(per_sample.mean().to(device, dtype), per_sample.detach().to(device, dtype), logs)

    def _check(self, errors: PairErrors) -> None:
        single = self.takes_single_images and errors.rejected is None and errors.labels is not None
        pairs = self.needs_rejected and not single
        needed = {"rejected": pairs, "reference_chosen": self.needs_reference}
        needed["reference_rejected"] = pairs and self.needs_reference
        needed["chosen_reference_product"] = needed["chosen_rejected_product"] = pairs and self.needs_products
        missing = [name for name, is_needed in needed.items() if is_needed and getattr(errors, name) is None]
        if missing:
            raise UserError(f"{type(self).__name__} needs the errors {', '.join(missing)}: pass them in PairErrors.")
        given = [value for value in vars(errors).values() if value is not None]
        # (B,) against (B, 1) would broadcast to a loss over all B x B combinations without a word.
        shape = errors.chosen.shape
        if len(shape) != 1 or any(value.shape != shape or not value.is_floating_point() for value in given):
            found = ", ".join(f"{tuple(value.shape)} {value.dtype}" for value in given)
            raise UserError(
                f"PairErrors holds {found}; give float tensors, one number per pair, all of one shape (B,)."
            )

    def _pair_logs(self, errors: PairErrors) -> dict[str, Tensor]:
        """The common curves. The margin is the method's own: a reference counts only where the loss has one."""
        logs = error_logs(errors)
        if errors.rejected is None:
            return logs
        margin = margins(errors) if self.needs_reference else errors.rejected - errors.chosen
        return logs | margin_logs(margin.detach(), exact_labels(errors))


@dataclass(frozen=True)
class Allowed:
    """The values that a setting may have, from `least` on (itself too, if `closed`) and below `limit`."""

    words: str
    least: float = 0.0
    closed: bool = True
    limit: float = math.inf

    def includes(self, value: object) -> bool:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and (value >= self.least if self.closed else value > self.least) and value < self.limit


class AnObjective:
    """Any objective with a rejected image."""

    words = "the name and settings of an objective on pairs, such as {name: diffusion_dpo, beta: 5000}"

    def includes(self, value: object) -> bool:
        return isinstance(value, Objective) and value.needs_rejected


def positive(default: float | None = None):
    """A dataclass field that must be a finite number above 0."""
    return _setting(Allowed("a finite number above 0", closed=False), default)


def not_negative(default: float | None = None):
    """A dataclass field that must be a finite number of 0 or more."""
    return _setting(Allowed("a finite number of 0 or more"), default)


def share(below: float, above_zero: bool = False):
    """A dataclass field that must be a number from 0 to `below`, without `below` itself; above_zero: without 0 too."""
    words = f"a number between 0 and {below:g}" if above_zero else f"a number from 0 to below {below:g}"
    return _setting(Allowed(words, closed=not above_zero, limit=below), None)


def objective_of():
    """A dataclass field that holds another objective, one that looks at pairs."""
    return _setting(AnObjective(), None)


def _setting(allowed: Allowed | AnObjective, default: float | None):
    metadata = {"allowed": allowed}
    return field(metadata=metadata) if default is None else field(default=default, metadata=metadata)


def margins(errors: PairErrors) -> Tensor:
    """(B,) by how much more than the reference the model favours the chosen image: (e_l - e_w) - (r_l - r_w)."""
    return (errors.rejected - errors.chosen) - (errors.reference_rejected - errors.reference_chosen)


def preference_logits(errors: PairErrors, beta: float) -> Tensor:
    """(B,) u = -(beta/2) [(e_w - e_l) - (r_w - r_l)]: Diffusion-DPO's estimate of the log-odds that w is preferred."""
    return beta / 2 * margins(errors)


def error_logs(errors: PairErrors) -> dict[str, Tensor]:
    """The mean of each error that is there."""
    named = {
        "error_chosen": errors.chosen,
        "error_rejected": errors.rejected,
        "reference_error_chosen": errors.reference_chosen,
        "reference_error_rejected": errors.reference_rejected,
    }
    return {name: value.detach().mean() for name, value in named.items() if value is not None}


def margin_logs(margin: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """margin, labels: (B,).

    Half a win is a pair that the model does not tell apart, as at the start with a reference, or that is a tie.
    """
    undecided = (margin == 0) | (labels == 0.5)
    wins = torch.where(undecided, 0.5, (margin > 0).double())
    return {"margin": margin.mean(), "implicit_accuracy": wins.mean()}


def exact_labels(errors: PairErrors) -> Tensor:
    """The labels, (B,); 1 where none are given."""
    return torch.ones_like(errors.chosen) if errors.labels is None else errors.labels


def to_double(tensor: Tensor | None) -> Tensor | None:
    """In float64 where the device has it, else on the CPU."""
    if tensor is None:
        return None
    # MPS has no float64; everywhere else the numbers stay where they are.
    return tensor.to("cpu", torch.float64) if tensor.device.type == "mps" else tensor.double()
