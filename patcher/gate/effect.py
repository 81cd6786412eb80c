# SPDX-License-Identifier: Apache-2.0
"""Do the corrections do anything?

Bounds out of reach, masks of ones and the old statistics are possible values, and leave a backdoor as it was. Whether
corrections help is for the checks on triggers; here it is asked whether they change any score of some clean images, in
any bit. A second pass answers for suspicious images alone, so that nothing can be said of it from clean ones.
"""

from __future__ import annotations

import numpy as np

from patcher.errors import InputError
from patcher.gate.check import Check, decided
from patcher.gate.reconstruction import Reconstruction
from patcher.gate.subject import Subject
from patcher.model.file import loadable
from patcher.patch import Branch, Flag
from patcher.runtime import create_session, one_line, runtime_errors

_IMAGES = 32


def effect_check(subject: Subject, again: Reconstruction) -> Check:
    """The check ``effect``."""
    if not [item for item in again.corrections if not isinstance(item, Branch | Flag)]:
        return Check("effect", "skipped", "no correction acts on every image")
    if subject.predicted is None:
        return Check("effect", "not_run", subject.failure or subject.hardened.failure)
    model, clean_set = subject.prepared.model, subject.prepared.clean_set
    count = model.batch or min(_IMAGES, len(clean_set))
    rows = np.linspace(0, len(clean_set) - 1, count).astype(np.int64)
    feed = model.feed(subject.feed(clean_set.images(rows)))
    failures: tuple[type[Exception], ...] = (InputError, *runtime_errors())
    scores = []
    try:
        # Without optimisations: they round otherwise where there is one operator more.
        for proto in (model.proto, subject.hardened.proto):
            with loadable(proto) as source:
                session = create_session(source, providers=subject.settings.providers, optimization="disabled")
            scores.append(np.asarray(session.run([model.logits], feed)[0]))
    except failures as error:
        return Check("effect", "not_run", one_line(error))
    moved = int((scores[0] != scores[1]).reshape(count, -1).any(axis=1).sum())
    message = f"the scores of {moved} of {count} clean images are others than the original's"
    return decided("effect", moved > 0, message, count=count, value=moved / count)
