import weakref


class Held:
    def __del__(self):
        print("deleted")


held = Held()
cycle = [held]
cycle.append(cycle)
weakref.finalize(held, print, "finalized")
