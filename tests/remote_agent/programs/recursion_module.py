import sys


def depth(n=0):
    try:
        return depth(n + 1)
    except RecursionError:
        return n


if __name__ == "__main__":
    print(sys.getrecursionlimit(), depth())
