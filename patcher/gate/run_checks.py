# SPDX-License-Identifier: Apache-2.0
"""All checks of the gate, in order."""

from __future__ import annotations

from patcher.gate.accuracy import accuracy_check, agreement_check, clean_images_check
from patcher.gate.alarms import alarm_checks
from patcher.gate.check import CHECKS, Check
from patcher.gate.consistency import consistency_check
from patcher.gate.cost import cost_checks
from patcher.gate.effect import effect_check
from patcher.gate.interface import interface_check, operators_check
from patcher.gate.origin import patch_check, provenance_check
from patcher.gate.reconstruction import reconstruct, reconstruction_check
from patcher.gate.structure import structure_checks
from patcher.gate.subject import Subject
from patcher.gate.triggers import Picture, probes_check, scanned_check, triggered_check
from patcher.progress import Progress


def run_checks(subject: Subject, progress: Progress) -> tuple[list[Check], list[Picture]]:
    """All checks, in the order of `CHECKS`."""
    found: list[Check] = []
    pictures: list[Picture] = []

    def add(*checks: Check) -> None:
        found.extend(checks)
        progress("checks", len(found), len(CHECKS) - 1)

    interface = interface_check(subject)
    add(interface, operators_check(subject))
    again = reconstruct(subject)
    proof = reconstruction_check(subject, again, interface)
    add(proof, *structure_checks(subject, again))
    add(provenance_check(subject), patch_check(subject, again, proof))
    add(clean_images_check(subject), accuracy_check(subject), agreement_check(subject))
    add(effect_check(subject, again), consistency_check(subject))
    for part in (probes_check, scanned_check, triggered_check):
        check, shown = part(subject)
        add(check)
        pictures += shown
    add(*alarm_checks(subject))
    add(*cost_checks(subject))
    return found, pictures
