def add(a, b):
    breakpoint()
    return a + b


print(add(1, 2))
