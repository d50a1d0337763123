import sys
print(__name__, __spec__.name, __package__, sys.argv, __file__, sys.path[0])
from . import part
part.fail()
