import os
os.chdir("/")
raise ValueError("the source is still found")
