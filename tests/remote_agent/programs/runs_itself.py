import runpy
import sys
if len(sys.argv) < 9:
    sys.argv += ["x"] * 9
    runpy.run_path(__file__, run_name="__main__")
    runpy.run_module("sibling")
print(__name__, len(sys.argv))
