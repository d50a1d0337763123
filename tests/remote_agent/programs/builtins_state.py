import builtins
print(sorted(dir(builtins)), "sitecustomize" in __import__("sys").modules)
print(any("devloop" in name for name in __import__("sys").modules), breakpoint)
