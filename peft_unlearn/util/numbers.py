"""How numbers are written for people."""


def show(value: float) -> str:
    """A number in at most six characters: 0.0123, 0.950, -0.003, 12.3, -99.8, 5215."""
    size = abs(value)
    decimals = 4 if 0 < value < 0.02 else 3 if size < 1 else 2 if size < 10 else 1 if size < 100 else 0
    return f"{round(value, decimals) + 0.0:.{decimals}f}"  # + 0.0: no minus before a zero
