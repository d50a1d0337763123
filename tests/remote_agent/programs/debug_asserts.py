print(__debug__)
assert False, "asserted"
