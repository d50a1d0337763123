import sys
main = sys.modules["__main__"]
print(sorted(vars(main)))
print(__name__, __file__ == main.__file__, __spec__, __package__, __doc__)
print(type(__loader__).__name__, __loader__.name, __loader__.path == __file__)
print(__builtins__)
