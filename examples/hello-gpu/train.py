"""A training loop small enough to read at a glance. Needs nothing but Python.

Change LEARNING_RATE while `devloop up` watches, and see the next run start at once.
"""

import random
import subprocess
import time

LEARNING_RATE = 0.05
STEPS = 10
TRUE_SLOPE = 3.0


def find_device() -> str:
    """The first GPU by name, or "CPU"."""
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "CPU"
    first_line = listing.stdout.partition("\n")[0]
    return first_line if listing.returncode == 0 and first_line else "CPU"


def make_batch(size: int = 64) -> list[tuple[float, float]]:
    """Points (x, y) on a line through zero, with a little noise."""
    points = [random.uniform(-1, 1) for _ in range(size)]
    return [(x, TRUE_SLOPE * x + random.gauss(0, 0.1)) for x in points]


def train() -> None:
    """Fits y = slope * x by gradient descent on the mean squared error."""
    slope = 0.0
    for step in range(1, STEPS + 1):
        batch = make_batch()
        loss = sum((slope * x - y) ** 2 for x, y in batch) / len(batch)
        gradient = sum(2 * x * (slope * x - y) for x, y in batch) / len(batch)
        slope -= LEARNING_RATE * gradient
        print(f"step {step:2}  loss {loss:.4f}  slope {slope:.3f}", flush=True)
        time.sleep(0.05)  # stands for the work of a real step


if __name__ == "__main__":
    random.seed(0)
    print(f"device: {find_device()}", flush=True)
    print(f"learning rate: {LEARNING_RATE}", flush=True)
    train()
    print("done")
