"""The page of an unlearning certificate: what certificate.json says, to be read and printed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clear_dist.report.render import render
from clear_dist.report.view import Facts, facts_from
from clear_dist.report.words import METRICS, SETS, number

MEANINGS = {
    "Digest": "SHA-256 of a file's bytes, or of weights: equal digests, equal content.",
    "Interval": "95%, as in the run's summary.json; n: how many answers it rests on.",
    "Forgotten people": "Each is a digest of a name with the certificate's salt: whoever knows a name can look for it "
    "(clear-dist certify --verify FILE --names NAME), nobody can read names from it.",
    "Signature": "Ed25519 over the JSON document with sorted keys and without spaces.",
}


@dataclass(frozen=True)
class CertificateView:
    """Everything the page shows."""

    headline: str
    lead: str
    signature: tuple[tuple[str, str], ...]
    limits: tuple[str, ...]
    facts: tuple[Facts, ...]
    details: tuple[Facts, ...]


def certificate_page(envelope: Mapping[str, Any]) -> str:
    """The HTML page of a certificate.json."""
    return render("certificate.html.j2", view_of(envelope), MEANINGS)


def view_of(envelope: Mapping[str, Any]) -> CertificateView:
    document, signature = envelope["certificate"], envelope["signature"]
    forgotten, models = document["forgotten"], document["models"]
    people = len(forgotten["people"])
    signed = (
        (("Signed by", signature["fingerprint"]), ("Algorithm", signature["algorithm"]), ("Value", signature["value"]))
        if signature
        else (("Signature", "none: checksums only, which show damage but not who vouches for it"),)
    )
    facts = [
        Facts(
            "What was to be forgotten",
            (
                ("People", f"{people:,}"),
                ("Rows", f"{forgotten['rows']:,}" if "rows" in forgotten else "not recorded"),
                ("Digest of the rows", str(forgotten.get("digest"))),
                ("People kept", f"{forgotten['kept_people']:,}"),
                ("Rows that give them away in what is kept", str(document["data"]["leaks"])),
                ("Digest of the data", str(document["data"]["digest"])),
            ),
        ),
        Facts(
            "Models",
            (("Before", str(models["before"])), *((f"After: {name}", d) for name, d in models["after"].items())),
        ),
        Facts(
            "Method",
            (("Objective", str(document["method"]["objective"])), ("Command", str(document["run"]["command"]))),
        ),
        *(Facts(f"Measured: {name}", tuple(_figures(found))) for name, found in _ordered(document["measured"])),
    ]
    made = {"environment": document["environment"], "seeds": document["seeds"], "config": document["settings"]}
    files = tuple((name, f"{f['sha256']} ({f['bytes']:,} bytes)") for name, f in document["files"].items())
    return CertificateView(
        headline=f"Unlearning of {people:,} {'person' if people == 1 else 'people'}",
        lead=f"Certificate {envelope['sha256'][:16]}, {envelope['note']}.",
        signature=(*signed, ("Digest of the certificate", envelope["sha256"])),
        limits=tuple(document["limits"]),
        facts=tuple(f for f in facts if f.rows),
        details=(Facts("Files", files), *facts_from(made)),
    )


def _ordered(measured: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What came out first, then gold, then what went in."""
    last = ("gold", "original")
    return sorted(measured.items(), key=lambda item: (item[0].split("/")[0] in last, item[0]))


def _figures(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    out = [
        (f"{SETS.get(name, name)}: {METRICS.get(metric, metric)}", _estimate(value))
        for name, metrics in found["sets"].items()
        for metric, value in metrics.items()
    ]
    if "named" in found:
        out.append(("Pictures of forgotten people: named, or a private fact given", _estimate(found["named"])))
    if (quality := found.get("forget_quality")) and quality.get("p") is not None:
        out.append(("Forget quality: p of the test against gold", f"{quality['p']:.2g}"))
    for attack, sets in (found.get("robustness") or {}).items():
        for name, groups in sets.items():
            for metric, value in ((groups or {}).get("all") or {}).items():
                out.append((f"After {attack}, {SETS.get(name, name)}: {METRICS.get(metric, metric)}", _estimate(value)))
    return out


def _estimate(value: Mapping[str, Any]) -> str:
    low, high = value["ci"]
    return f"{number(value['value'])} [{number(low)}, {number(high)}], n {value['n']}"
