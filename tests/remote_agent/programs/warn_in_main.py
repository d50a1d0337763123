import warnings


def old():
    warnings.warn("old is old", DeprecationWarning, stacklevel=2)


old()
warnings.warn("far up", UserWarning, stacklevel=9)
print(warnings.filters)
