"""Plain references of the filters, in Python's own floats: a distribution in, a distribution out."""

import math


def softmax(logits):
    top = max(logits)
    parts = [math.exp(x - top) for x in logits]
    total = math.fsum(parts)
    return [part / total for part in parts]


def ranked(keys):
    """Positions, smallest key first, equals in order of position."""
    return sorted(range(len(keys)), key=lambda i: (keys[i], i))


def only(p, kept):
    """The distribution over some of the tokens."""
    total = math.fsum(p[i] for i in kept)
    return [x / total if i in kept else 0.0 for i, x in enumerate(p)]


def top_n_sigma(logits, n):
    finite = [x for x in logits if x > -math.inf]
    mean = math.fsum(finite) / len(finite)
    sigma = math.sqrt(math.fsum((x - mean) ** 2 for x in finite) / len(finite))
    return {i for i, x in enumerate(logits) if x >= max(logits) - n * sigma}


def xtc(logits, threshold):
    """What stays where it happens."""
    p = softmax(logits)
    above = [i for i in ranked([-x for x in p]) if p[i] >= threshold]
    return set(range(len(p))) - set(above[:-1])


def dry_repeats(ids, allowed, breakers):
    """Token -> length of the longest repetition that it would go on with; `breakers` are single tokens."""
    limit = next((back for back, each in enumerate(reversed(ids)) if each in breakers), len(ids))
    found = {}
    for end in range(1, len(ids)):  # ids[:end] ends in what ids ends in
        same = 0
        while same < min(end, limit) and ids[end - 1 - same] == ids[len(ids) - 1 - same]:
            same += 1
        token = ids[end]
        if same >= allowed and token not in breakers:
            found[token] = max(found.get(token, 0), same)
    return found
