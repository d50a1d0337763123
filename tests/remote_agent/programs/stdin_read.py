import sys
print(repr(input("name? ")))
print(repr(sys.stdin.readline()))
print(repr(sys.stdin.read()))
try:
    input()
except EOFError as error:
    print("EOF", error)
