import inspect
import sys
import traceback
traceback.print_stack(file=sys.stdout)
print(sys._getframe().f_back, [frame.function for frame in inspect.stack()])


def deep():
    return len(inspect.stack())


print(deep())
