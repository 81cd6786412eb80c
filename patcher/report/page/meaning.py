# SPDX-License-Identifier: Apache-2.0
"""What each verdict of each command means, and what to do next: one table for reports, terminal and documentation.

`python -m patcher.report.page.meaning` prints it in Markdown. Names in capitals stand for the reader's own files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_LINE = 48


@dataclass(frozen=True)
class Step:
    """Something to do next.

    Attributes:
        text: One or two sentences.
        command: A command line that does it; empty where none does.
    """

    text: str
    command: str = ""

    @property
    def lines(self) -> str:
        """The command; a long one continued line by line, to be read in a narrow window and copied as it is."""
        return self.command if len(self.command) <= _LINE else self.command.replace(" --", " \\\n  --")


@dataclass(frozen=True)
class Meaning:
    """A verdict in plain words.

    Attributes:
        means: What it says, and what it does not.
        next: What to do, in order.
    """

    means: str
    next: tuple[Step, ...]


_AUTO = "patcher harden MODEL --clean-dir DATA --method auto --scan SCAN/scan.json"
_GATE = "patcher verify MODEL HARDENED --clean-dir DATA --triggers SCAN/triggers.npz --patch REPORT/patch.safetensors"
_COMPARE = "patcher compare MODEL --clean-dir DATA --method unit --method nft --triggers SCAN/triggers.npz"

_SCAN = {
    "clean": Meaning(
        "No class is reached by an abnormally small change of any kind that was searched, and none lies far too close "
        "in the model's last features. That is not a proof: a trigger of a kind that was not searched, or larger than "
        "the limits, is not covered.",
        (
            Step("See below which kinds of trigger were searched."),
            Step(
                "If you do not trust where the model comes from, let precautionary bounds be tried; they are kept only "
                "where they cost next to nothing.",
                _AUTO,
            ),
        ),
    ),
    "backdoor": Meaning(
        "One small change, the same for all pictures, makes the model give an attacker's class, and is far smaller "
        "than what any other class needs. Weaknesses of clean models are neither that small nor that much apart. The "
        "trigger shown is the smallest that works, seldom the attacker's own.",
        (
            Step("Do not deploy this file."),
            Step("Repair it with what was found.", _AUTO),
            Step("Let the gate try the found triggers on the result.", _GATE),
            Step(
                "If you have the training set, find the images that planted the backdoor.",
                "patcher audit-data MODEL --train-dir TRAIN",
            ),
        ),
    ),
    "suspicious": Meaning(
        "Something stands out, but not in every respect that a backdoor must. It can be a natural weakness of the "
        "model, a trigger that few images show, or one of a kind that no search has. Nothing is decided.",
        (
            Step(
                "Look at the trigger's pictures. A few pixels in a corner or a faint regular pattern is foreign to the "
                "class; a change that draws the class itself is a natural weakness."
            ),
            Step(
                "Search again with more clean images, or with another seed: a planted trigger is found again.",
                "patcher scan MODEL --clean-dir DATA --seed 1",
            ),
            Step("Treat it as a backdoor until then: repairing a clean model costs little accuracy.", _AUTO),
        ),
    ),
    "inconclusive": Meaning(
        "There are too few classes or clean images, or none, to tell an abnormally small change from a usual one. The "
        "model is neither cleared nor accused.",
        (
            Step("Give more clean images: ten of each class at least, a few hundred in all."),
            Step(
                "Bound the activations, which needs no finding.",
                "patcher harden MODEL --clean-dir DATA --method unit",
            ),
        ),
    ),
}

_HARDEN = {
    "pass": Meaning(
        "A hardened model was written. It keeps the accuracy that was asked for, and ONNX Runtime computes what was "
        "calibrated. What is left of an attack is known for the triggered images that were given, and for no others.",
        (
            Step("Let the gate decide whether it may take the original's place.", _GATE),
            Step("Keep the patch with the release: the gate makes the hardened file again from it, byte for byte."),
        ),
    ),
    "fail": Meaning(
        "A condition was not met, and no model was written. Patch and figures are in the report folder.",
        (
            Step("Give more clean images: with few of them one wrong answer is more than the limit."),
            Step("Allow more loss.", "patcher harden MODEL --clean-dir DATA --method unit --epsilon 0.03"),
            Step("Or try other methods side by side.", _COMPARE),
        ),
    ),
}

_COMPARED = {
    "pass": Meaning(
        "At least one method met its conditions, and the best result was written: the lowest attack success on the "
        "given triggered images, or, where none were given, the first method that passed.",
        (
            Step("Open the report of the best method."),
            Step(
                "Let the gate decide whether it may take the original's place.",
                _GATE.replace("REPORT", "REPORT/METHOD"),
            ),
        ),
    ),
    "fail": Meaning(
        "No method met its conditions, and no model was written.",
        (
            Step("Give more clean images, or allow more loss (--epsilon)."),
            Step(
                "Scan first: NFT and BNA work with the triggers that it finds.", "patcher scan MODEL --clean-dir DATA"
            ),
        ),
    ),
}

_VERIFY = {
    "pass": Meaning(
        "The hardened model may take the original's place: every check of the policy passed, had nothing to check, or "
        "is suppressed by name. A check without its input is skipped; see in the table which were.",
        (
            Step(
                "Sign the file that was judged.",
                "patcher verify MODEL HARDENED --clean-dir DATA --sign-key KEY.pem",
            ),
            Step("Make the checks that you rely on compulsory: list them under require in the policy."),
            Step("Release the file with this very hash."),
        ),
    ),
    "fail": Meaning(
        "The hardened model must not take the original's place: a check failed, or could not be run.",
        (
            Step("Read the failed checks below: what was found, beside its limit."),
            Step(
                "Where graph, weights, reconstruction or patch failed, the file is not what this tool made of the "
                "original: find out who changed it."
            ),
            Step("Where accuracy or a trigger failed, harden again with another method.", _COMPARE),
            Step(
                "Where a limit does not suit your case, change it in the policy, with the reason beside it.",
                "patcher policy init",
            ),
        ),
    ),
}

_AUDIT = {
    "clean": Meaning(
        "No label has a second group of images that depends on unusually strong activations. Triggers that do not "
        "work through single neurons are not covered.",
        (Step("Scan the model: the search needs no assumption about neurons.", "patcher scan MODEL --clean-dir DATA"),),
    ),
    "suspicious": Meaning(
        "Under the labels named above a group of images drives neurons that the other images leave alone, and loses "
        "its label when those neurons are bounded. That is what poisoned images do.",
        (
            Step("Look at the suspects: the same small thing in pictures of several classes is the trigger."),
            Step("Take the images of suspects.csv out of the training set, and find out where they came from."),
            Step(
                "Repair the model with the rest.",
                "patcher harden MODEL --method none --train-dir TRAIN --clean-dir DATA",
            ),
        ),
    ),
}

_EVALUATE = {
    "pass": Meaning(
        "These are measurements, nothing was judged. A high share of triggered images with the attacker's class means "
        "that the backdoor works; a high share with their true class means that it does not.",
        (
            Step("Compare with the other model of the pair, on the same images."),
            Step("Let the gate judge.", "patcher verify MODEL HARDENED --clean-dir DATA --triggered TRIGGERED.npz"),
        ),
    ),
}

_FLEET = {
    "pass": Meaning(
        "Every model of the fleet met every condition.",
        (Step("Release the models whose gate passed, with these hashes."),),
    ),
    "fail": Meaning(
        "At least one model has a backdoor, or failed a condition.",
        (Step("Sort by verdict, and open the reports of the models that failed; each says what to do."),),
    ),
    "inconclusive": Meaning(
        "No model failed, but at least one could not be decided, or ended with an error.",
        (Step("Open those models' reports and logs; the reason stands in the last column."),),
    ),
    "not applicable": Meaning(
        "For at least one model there was nothing that could be done.",
        (Step("Read in the last column what the model lacks."),),
    ),
}

MEANINGS: Mapping[str, Mapping[str, Meaning]] = {
    "scan": _SCAN,
    "harden": _HARDEN,
    "compare": _COMPARED,
    "verify": _VERIFY,
    "audit-data": _AUDIT,
    "evaluate": _EVALUATE,
    "fleet": _FLEET,
}


def meaning_of(command: str, verdict: str) -> Meaning:
    """What a verdict means.

    Raises:
        KeyError: The command has no such verdict.
    """
    return MEANINGS[command][verdict]


def markdown() -> str:
    """The whole table in Markdown: a section a command, in it one a verdict."""
    lines: list[str] = []
    for command, verdicts in MEANINGS.items():
        lines += [f"## {command}", ""]
        for verdict, meaning in verdicts.items():
            lines += [f"### {command}: {verdict}", "", meaning.means, ""]
            for step in meaning.next:
                lines += [f"- {step.text}", *_fenced(step.command)]
            lines += [""]
    return "\n".join(lines)


def _fenced(command: str) -> list[str]:
    """A command line as code within a list."""
    return ["", "    ```", f"    {command}", "    ```", ""] if command else []


if __name__ == "__main__":
    print(markdown())
