"""What an evaluation says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from rarefy.units import Interval, bpw, human

if TYPE_CHECKING:
    from rarefy.measure.evaluation import Evaluation


NAMES = {"spearman": "rank correlation"}
"""Of scores, where their field's name would not be understood."""


@dataclass(frozen=True)
class Network:
    """A network on disk, by the name the user gave. weights: unique parameters."""

    name: str
    bytes: int
    weights: int

    @property
    def bpw(self) -> float:
        return bpw(self.bytes, self.weights)

    def to_json(self) -> dict[str, Any]:
        """Its rate."""
        return {"bytes": self.bytes, "weights": self.weights, "bpw": self.bpw}


@dataclass(frozen=True)
class Predicted:
    """The divergence that was predicted before a network was made; claimed: where such predictions hold."""

    nats: float
    claimed: bool


@dataclass(frozen=True)
class Evaluated:
    """A network, its original if there is one, and what was measured on data called `data`, of `shape`.

    predicted: what the artifact's manifest says that its divergence would be.
    """

    evaluation: Evaluation
    network: Network
    original: Network | None
    data: str
    shape: str
    seconds: float
    predicted: Predicted | None = None

    def to_json(self) -> dict[str, Any]:
        """Figures of the network on top, those of the original under "reference"."""
        measured = self.evaluation.as_json()
        found = {**self.network.to_json(), **measured}
        if self.original is not None:
            found["reference"] = {**self.original.to_json(), **measured["reference"]}
        if self.predicted is not None:
            found["predicted_kl"] = self.predicted.nats
        return {**found, "data": self.data, "seconds": round(self.seconds, 3)}

    def table(self) -> Table:
        """For a terminal: a column for each network."""
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim")
        table.add_column("")
        for network in (self.network, self.original):
            if network is not None:
                table.add_column(Text(network.name), overflow="fold")
        networks = [network for network in (self.network, self.original) if network is not None]
        table.add_row("bytes", *(human(network.bytes) for network in networks))
        table.add_row("bits a weight", *(f"{network.bpw:.2f}" for network in networks))
        self._scores(table)
        return table

    def _scores(self, table: Table) -> None:
        found, reference = self.evaluation, self.evaluation.reference
        for name in ("perplexity", "accuracy", "spearman"):
            own: Interval | None = getattr(found, name)
            if own is None:
                continue
            row = [str(own)] if reference is None else [str(own), str(getattr(reference, name))]
            table.add_row(NAMES.get(name, name), *row)
            if found.difference is not None:
                table.add_row("  difference", signed(found.difference))
        if found.kl is not None:
            table.add_row(Text(distortion(found), "bold"), Text(str(found.kl), "bold"))
            if self.predicted is not None:
                doubt = "" if self.predicted.claimed else ", outside of where such predictions hold"
                table.add_row("  predicted", f"{self.predicted.nats:.4g}{doubt}")


def distortion(found: Evaluation) -> str:
    """What a distortion is called and counted in."""
    if found.perplexity is not None:
        return "KL, nats a token"
    return "KL, nats an example" if found.accuracy is not None else "distortion"


def signed(interval: Interval) -> str:
    """A difference."""
    return f"{interval.value:+.4g} [{interval.low:+.4g}, {interval.high:+.4g}]"
