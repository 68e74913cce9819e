"""Curvature: what a small change of a matrix costs in nats of the network's output, and the hooks that gather it.

Let y = W x at every position p (a token, a pixel) where W is used, and g = B e at the outputs with E[g g^T] = F, the
Fisher information of the output law (`laws.py`). Backpropagated to y_p, g_p, a change E of W costs, per law,

    KL = 1/2 E[(sum_p g_p^T E x_p)^2]  ~  1/2 sum_r rows[r] (E S E^T)_rr,
    rows[r] = sum_p g_pr^2 / laws,  S = mean_p x_p x_p^T.

Three approximations make it so small: positions are taken as uncorrelated, gradients as independent of inputs, and the
rows of y as uncorrelated. The first holds well where every token has a law. Where an example has one law for all its
positions it does not (averaged maps give all of them one gradient), so there the sum is taken literally: with
V_n = sum_p g_p x_p^T of example n,

    rows[r] = mean_n |V_nr|^2 / tr S,  and S is replaced by  C = mean_n V_n^T V_n, scaled to tr C = tr S,

exact for changes without preferred directions, and for any summed over rows. Only the rows are taken as uncorrelated
and of one shape. `rows` serve with either S or C, whose traces agree.

Of an embedding W the inputs are one-hot: row v is looked up rows[v] times a law, and what meets it there is
G = mean_p g_p g_p^T, so KL ~ 1/2 sum_v rows[v] E_v G E_v^T.

Sources: Martens and Grosse (2015), Optimizing neural networks with Kronecker-factored approximate curvature; Grosse
and Martens (2016) for convolutions, "spatially uncorrelated derivatives".
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from rarefy.evidence.experts import peers
from rarefy.evidence.statistics import Moment, MomentGatherer, Statistic, moment_obstacle, unfold
from rarefy.processes import Processes

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import nn

    from rarefy.families import Kind

UNREACHED = "no gradient of the output reaches it"

UNSEEN = 0.1
"""Least share of its mean that every row of an embedding or head gets: other text has other words."""

_TINY = 1e-30  # under which a trace is that of nothing at all


@dataclass(frozen=True)
class Curvature(Statistic):
    """A tuple of `Kronecker`, one for each use of the matrix: their costs add up. Gathered by `survey`."""

    NAME: ClassVar[str] = "curvature"


@dataclass(frozen=True, eq=False)
class Kronecker:
    """Of one use of a matrix (out, in): nats ~ 1/2 sum_r rows[r] e_r^T S e_r for a change e of it.

    kind: of the use. rows: float32 (out,), nats per law (token or example) and unit of S. moment: S (in, in), or C
    where laws are of whole examples.
    """

    kind: Kind
    rows: NDArray[np.float32]
    moment: Moment

    @property
    def count(self) -> int:
        """Positions seen."""
        return self.moment.count

    def finite(self) -> bool:
        """Whether nothing overflowed on the way there and back."""
        return bool(np.isfinite(self.rows).all()) and self.moment.finite()

    def nats(self, error: NDArray[np.float32]) -> float:
        """What a change (out, in) of the matrix costs, to second order, nats per law."""
        return self.moment.energy(np.sqrt(self.rows)[:, None] * error) / 2


def curvature_obstacle(layer: nn.Module) -> str:
    """Why a layer's curvature cannot be gathered, or "" when it can."""
    from torch import nn

    if isinstance(layer, nn.Embedding):
        return "" if lookup_scale(layer) is not None else f"{type(layer).__name__} is no plain lookup"
    return moment_obstacle(layer)


def lookup_scale(layer: nn.Module) -> float | None:
    """What an embedding multiplies the rows that it looks up by; None where it does something else with them."""
    from torch import nn

    if type(layer).forward is nn.Embedding.forward:
        return 1.0
    scaled = type(layer).__name__.endswith("ScaledWordEmbedding") and type(layer).__module__.startswith("transformers.")
    return float(layer.embed_scale) if scaled else None  # type: ignore[arg-type]


class CurvatureGatherer:
    """Sums what a backward pass through a segment shows of its layers."""

    def __init__(self, module: nn.Module, paths: Sequence[str], processes: Processes | None = None) -> None:
        """paths: of linear layers, convolutions and embeddings. Weights need no gradient. processes: those that see
        the other micro-batches."""
        self._processes = processes or Processes()
        self.examples = 0  # of the micro-batch where each has one law, else 0; to be set before it
        self._layers = {path: module.get_submodule(path) for path in paths}
        self._obstacles = {path: curvature_obstacle(layer) for path, layer in self._layers.items()}
        self._rows: dict[str, torch.Tensor] = {}
        self._metrics: dict[str, torch.Tensor] = {}
        self._heads: set[str] = set()
        self._outputs: list[tuple[torch.Tensor, str, Any]] = []
        seen = [path for path, obstacle in self._obstacles.items() if not obstacle]
        multiplied = {path: (path,) for path in seen if not self._is_lookup(path)}
        self._moments = MomentGatherer(module, multiplied, self._processes)
        self._handles = [
            self._layers[path].register_forward_hook(functools.partial(self._see, path), with_kwargs=True)
            for path in seen
        ]

    def _is_lookup(self, path: str) -> bool:
        from torch import nn

        return isinstance(self._layers[path], nn.Embedding)

    def _see(self, path: str, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], y: torch.Tensor) -> Any:
        if not y.requires_grad:
            y = y.requires_grad_().clone()  # a leaf may not be changed in place, and what comes next may do so
        inputs = args[0] if args else kwargs["input"]
        if self.examples and not self._is_lookup(path):
            inputs = inputs.detach().clone()  # what comes next may change it in place
        see = self._look_up if self._is_lookup(path) else self._multiply
        self._outputs.append((y, path, y.register_hook(functools.partial(see, path, inputs))))  # type: ignore[no-untyped-call]
        return y

    def _multiply(self, path: str, x: torch.Tensor, g: torch.Tensor) -> None:
        from torch import nn

        layer = self._layers[path]
        if isinstance(layer, nn.Conv2d):
            g = g.movedim(1, -1)
        rows = g.reshape(-1, g.shape[-1])
        if self.examples and len(g) == self.examples < len(rows):
            self._sum_positions(path, unfold(layer, x).float(), rows.float())
        else:
            self._add(path, rows.float().square().sum(0, dtype=_double()))

    def _sum_positions(self, path: str, x: torch.Tensor, g: torch.Tensor) -> None:
        """Add V_n = G_n^T X_n of every example: inputs (n positions, in), gradients (n positions, out).

        Of fewer positions than outputs sum V_n^T V_n = sum X_n^T (G_n G_n^T) X_n takes a fraction of the products.
        """
        positions = len(g) // self.examples
        x, g = x.reshape(self.examples, positions, -1), g.reshape(self.examples, positions, -1)
        if positions < g.shape[-1]:
            weighted = (g @ g.mT) @ x
            metric = x.flatten(0, 1).T @ weighted.flatten(0, 1)
            self._metrics[path] = metric + self._metrics.get(path, 0)
            self._add(path, ((x @ x.mT) @ g).mul_(g).sum((0, 1), dtype=_double()))
            return
        for x_n, g_n in zip(x, g, strict=True):
            v = g_n.T @ x_n
            self._metrics[path] = v.T @ v + self._metrics.get(path, 0)
            self._add(path, v.square().sum(1, dtype=_double()))

    def _look_up(self, path: str, ids: torch.Tensor, g: torch.Tensor) -> None:
        scale = lookup_scale(self._layers[path])
        assert scale is not None  # others are an obstacle
        rows = g.reshape(-1, g.shape[-1]).float() * scale
        self._metrics[path] = rows.T @ rows + self._metrics.get(path, 0)
        vocabulary = self._layers[path].get_parameter("weight").shape[0]
        self._add(path, ids.reshape(-1).bincount(minlength=vocabulary).to(_double()))

    def _add(self, path: str, rows: torch.Tensor) -> None:
        self._rows[path] = self._rows.get(path, 0) + rows

    def end(self, z: torch.Tensor, diagonal: torch.Tensor) -> None:
        """Tell what the laws are made of, before going back: the layer that made `z` needs no gradient for its rows.

        diagonal: (d,), sum of the diagonals of F.
        """
        for y, path, handle in self._outputs:
            if y is z:
                handle.remove()
                self._heads.add(path)
                self._add(path, diagonal)

    def next_batch(self) -> None:
        """Close a micro-batch: call after each."""
        self._moments.next_batch()
        self._outputs.clear()

    def remove(self) -> None:
        """Look no longer."""
        for handle in self._handles:
            handle.remove()
        self._moments.remove()

    def gathered(self, laws: int) -> tuple[dict[str, Kronecker | str], dict[str, Moment | str]]:
        """Of every path its curvature and its inputs' second moment over the micro-batches of all processes, or why
        it has none. laws: how many this one probed."""
        self._rows, self._metrics = self._processes.sum(self._rows), self._processes.sum(self._metrics)
        laws = sum(self._processes.gather(laws))
        moments: dict[str, Moment | str] = {path: moment_obstacle(layer) for path, layer in self._layers.items()}
        moments |= self._moments.gathered()
        found = {path: self._kronecker(path, moments[path], laws) for path in self._layers}
        return found | self._borrowed(found, moments), moments

    def _borrowed(
        self, found: dict[str, Kronecker | str], moments: dict[str, Moment | str]
    ) -> dict[str, Kronecker | str]:
        """For experts that no gradient reached: as sensitive as their peers are on average."""
        made: dict[str, Kronecker | str] = {}
        for path, group in peers(found).items():
            known = [use.rows for peer in group if isinstance(use := found[peer], Kronecker)]
            moment = moments[path]
            if found[path] == UNREACHED and known and isinstance(moment, Moment):
                made[path] = Kronecker("linear", np.sum(known, axis=0) / np.float32(len(group)), moment)
        return made

    def _kronecker(self, path: str, moment: Moment | str, laws: int) -> Kronecker | str:
        if self._obstacles[path] or path not in self._rows:
            return self._obstacles[path] or UNREACHED
        rows = self._rows[path].cpu().numpy() / laws
        metric = self._metrics[path].cpu().numpy() if path in self._metrics else None
        if self._is_lookup(path):
            assert metric is not None  # added with its rows
            count = round(rows.sum() * laws)
            # Good and Turing: words seen once weigh what those not seen at all do.
            once = np.count_nonzero(np.rint(rows * laws) == 1)
            return Kronecker("embedding", _smoothed(rows, max(UNSEEN, once / count)), Moment(metric / count, count))
        if isinstance(moment, str):
            return moment
        kind: Kind = "convolution" if hasattr(self._layers[path], "kernel_size") else "linear"
        if metric is not None:
            trace = max(float(np.trace(moment.s)), _TINY)
            scale = trace / max(float(np.trace(metric)), _TINY)
            rows, moment = rows / trace, Moment((metric * scale).astype(np.float32), moment.count)
        return Kronecker(kind, _smoothed(rows, UNSEEN if path in self._heads else 0.0), moment)


def _smoothed(rows: NDArray[np.float64], share: float) -> NDArray[np.float32]:
    """That share of the whole spread over all rows."""
    smoothed: NDArray[np.float32] = ((1 - share) * rows + share * rows.mean()).astype(np.float32)
    return smoothed


def _double() -> torch.dtype:
    import torch

    return torch.float64
