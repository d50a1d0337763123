def fail():
    raise ValueError("from a part")
