import inspect
import linecache


def shown():
    """A docstring."""
    return 1


class Shown:
    x = 1


print(inspect.getsource(shown), inspect.getsource(Shown), inspect.getsourcefile(shown))
print(linecache.getline(__file__, 1), shown.__code__.co_filename)
