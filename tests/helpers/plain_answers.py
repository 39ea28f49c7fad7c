"""What a run waits for of its other answers, in plain loops: that greedy decoding goes into them, and gives no forgotten row word for word."""


def recited(forget, holdout, lengths, rows, others):
    """The share of rows that are recited, without those that the other answer recites itself; none where a third as many of the holdout are.

    Args:
        forget, holdout: for each row (T, V) logits and (T,) labels, and maybe more.
        lengths: how many tokens the answer of each row of forget and holdout has, the one that ends it left out.
        rows, others: the forget rows, and for each the row with the other answer.
    """
    replaced = []
    for number, (row, other) in enumerate(zip(rows, others, strict=True)):
        own, instead = ([label for label in one["labels"] if label != -100] for one in (row, other))
        place = next((n for n, (one, two) in enumerate(zip(own, instead, strict=False)) if one != two), min(len(own), len(instead)))
        if place < 0.9 * lengths[0][number]:
            replaced.append(number)
    found = verbatim([forget[number] for number in replaced], [lengths[0][number] for number in replaced])
    return found if found > 3 * verbatim(holdout, lengths[1]) else 0.0


def unsaid(others, rows):
    """The share of other answers in which the tokens up to the first that is not the row's own are not the likeliest ones."""
    count = 0
    for (z, y, *_), row in zip(others, rows, strict=True):
        own = [label for label in row["labels"] if label != -100]
        place = next(n for n, token in enumerate(y.tolist()) if n == len(own) or token != own[n])
        count += any(z[n].argmax() != y[n] for n in range(place + 1))
    return count / len(others)


def verbatim(readings, lengths):
    """The share of rows that greedy decoding gives to nine tenths before it says anything else."""
    count = 0
    for (z, y, *_), length in zip(readings, lengths, strict=True):
        said = 0
        while said < length and z[said].argmax() == y[said]:
            said += 1
        count += said >= 0.9 * length
    return count / len(readings) if readings else 0.0
