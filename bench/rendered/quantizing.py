"""Quantizers beside their peers."""

from __future__ import annotations

from typing import Any

from rendered.words import interval, megabytes, on, table, times

OVER = "kl over the peer's"


def gptq(result: dict[str, Any]) -> str:
    """GPTQ beside llm-compressor's."""
    rows = [
        [
            *(name, c["dtype"], interval(c["kl"], 4)),
            *(f"{c['gptq_processor_s']:.0f} s", f"{c['gptq_wall_s']:.0f} s", megabytes(c["gptq_peak_bytes"])),
        ]
        for name, c in result["contestants"].items()
    ]
    head = ["", "computes in", "KL, nats a token", "processor time", "wall time", "peak memory"]
    pairs = "".join(f"- {name}: {interval(d, 4)} nats\n" for name, d in result["paired differences"].items())
    return (
        f"## GPTQ beside llm-compressor\n\n`python bench/gptq.py --peer-python PEER/bin/python`: {result['network']}; "
        f"{result['grid']}; calibrated on {result['calibration']}, measured on {result['evaluation']}. All "
        "weights are measured dense by the same code.\n\n"
        + table(head, rows)
        + "\nPaired differences, 95 % intervals:\n\n"
        + pairs
        + f"\n{result.get('note', '')}\n\n"
        + on(result)
        + "\n"
    )


PLANES = {"whole": "whole file", "linear": "linear layers alone"}


def plane(result: dict[str, Any]) -> str:
    """Rarefy and its peers on the plane of rate and distortion: a language model."""
    said = (
        f"## The plane\n\n`python bench/plane.py --peers PEERS`: {result['network']}; calibrated on "
        f"{result['calibration']}; measured on {', '.join(result['evaluation'].values())}."
    )
    return planes(result, "plane", said, "KL")


def headline(result: dict[str, Any]) -> str:
    """The plot of whole files and what it shows, for the README."""
    against = result["against"]["whole"]
    held = sum(found["holds"] for found in against.values())
    points = "every one" if held == len(against) else f"{held}"
    return (
        f"![Bits a weight against divergence](docs/plane-whole.svg)\n\n{result['network']}, each tool's own whole "
        f"file of it, all measured by the same code: at {points} of the {len(against)} points of its peers Rarefy has "
        "a file that is no larger with at most half the divergence ([figures](docs/figures.md#the-plane)).\n"
    )


def encoder(result: dict[str, Any]) -> str:
    """Rarefy and its peers on the plane of rate and distortion: a sentence encoder."""
    said = (
        f"## The plane of a sentence encoder\n\n`python bench/encoder.py --peers PEERS`: {result['network']}; "
        f"calibrated on {result['calibration']}; measured on {', '.join(result['evaluation'].values())}. Spearman: "
        f"correlation with people's scores, less the original's {100 * result['original']['spearman']:.2f}, in "
        "hundredths, paired."
    )
    return planes(result, "encoder", said, "1 - cosine")


def planes(result: dict[str, Any], stem: str, said: str, distortion: str) -> str:
    """Plots, points, and the peers' points at which Rarefy's are not far enough ahead."""
    texts, scored = list(result["evaluation"]), "spearman less the original's"
    rows = []
    for entrant, point in result["points"].items():
        whole, linear, cost = point["whole"], point["linear"], point["cost"]
        score = [] if scored not in whole else [interval(times(whole[scored], 100), 2)]
        rows.append(
            [
                *(entrant, megabytes(whole["bytes"]), f"{whole['bpw']:.3f}"),
                f"{point['predicted']['nats']:.4f}" if "predicted" in point else "",
                *(interval(whole["kl"][text], 4) if text in whole["kl"] else "" for text in texts),
                *score,
                f"{linear['bpw']:.3f}",
                interval(linear["kl"][texts[0]], 4) if linear["kl"] else "",
                f"{cost['total_processor_s']:.0f} s{' (resumed)' if cost.get('resumed') else ''}",
                megabytes(cost["total_peak_bytes"]),
            ]
        )
    columns = ["", "whole file", "bits a weight", "predicted", *(f"{distortion}, {text}" for text in texts)]
    columns += ["Spearman"] if "original" in result else []
    columns += ["linear layers, bits a weight", f"{distortion}, {texts[0]}", "processor time", "peak memory"]
    shown = "".join(f"![{title}]({stem}-{plane}.svg)\n\n" for plane, title in PLANES.items())
    behind = ""
    for plane, title in PLANES.items():
        against = result["against"][plane]
        short = [shortfall(peer, found) for peer, found in against.items() if not found["holds"]]
        others = f"; not {', '.join(short)}" if short else ""
        behind += f"- {title}: {len(against) - len(short)} of {len(against)}{others}\n"
    missing = f"\nNot measured yet: {', '.join(result['missing'])}.\n" if result["missing"] else ""
    return (
        f"{said} Peers quantize with their own tools and write their own files; all are measured dense by the "
        "same code. Linear layers alone: embedding and norms are the original's, 8 bits a weight for all. Predicted: "
        "before the run, for text from where the calibration's is.\n\n"
        + shown
        + table(columns, rows)
        + f"\nPoints of peers at which a file of Rarefy's that is no larger has at most half the {distortion} (upper "
        "end of the paired 95 % interval):\n\n" + behind + missing + f"\n{on(result)}\n"
    )


def shortfall(peer: str, found: dict[str, Any]) -> str:
    """A peer's point at which the bar is missed, and by how much."""
    if found["rarefy"] is None:
        return f"{peer} (no file of Rarefy's is as small)"
    return f"{peer} ({interval(found[OVER], 2)} of it, {found['rarefy']})"


def ablation(result: dict[str, Any]) -> str:
    """What each part of quantize.entropy is worth."""
    titles = {"smollm2": "SmolLM2-135M off its grid, KL in nats a token", "minilm": "all-MiniLM-L6-v2, 1 - cosine"}
    parts = []
    for network, title in titles.items():
        if network not in result:
            continue
        found = result[network]
        rates = found["rates"]
        names = dict.fromkeys(name for rows in rates.values() for name in rows)
        rows = [[name, *(worth(of.get(name)) for of in rates.values())] for name in names]
        said = f"**{title}**; calibrated on {found['calibration']}; {on(found)}\n\n"
        parts.append(said + table(["", *(f"{rate} a weight" for rate in rates)], rows))
    return (
        "## What the parts of quantize.entropy are worth\n\n`python bench/ablation.py minilm` and `smollm2`: the same "
        "bytes of the whole file, one part changed at a time; distortion, and processor time.\n\n" + "\n".join(parts)
    )


def worth(row: dict[str, Any] | None) -> str:
    """Distortion, and what it took; nothing where it was not run."""
    return "" if row is None else f"{interval(row['kl'], 4)}; {row['processor_s']} s"
