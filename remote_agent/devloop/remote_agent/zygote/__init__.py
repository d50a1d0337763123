"""The program that gives birth to runs, inside the project's interpreter or the agent's own.

Standard library only, Python 3.8 or newer; it imports nothing of devloop beside it. The agent
starts it in one of two parts:

    spawner   `python spawner.py`: no preload; every command is exec'd
    zygote    `hook/sitecustomize.py`, found through PYTHONPATH by the project's interpreter:
              heavy imports done; Python entrypoints run in a fork

Both speak `wire` messages over one inherited socket. The agent imports `wire` and `words` only.
"""
