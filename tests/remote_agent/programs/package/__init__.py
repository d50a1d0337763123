"""A package."""
print("package", __name__, __path__ is not None)
