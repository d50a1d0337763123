import multiprocessing
import os
print("imported as", __name__, flush=True)
CONSTANT = os.getcwd()


class Held:
    pass


def work(queue, held):
    queue.put((__name__, CONSTANT, type(held).__module__, multiprocessing.current_process().name))


if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=work, args=(queue, Held()))
    process.start()
    print(queue.get())
    process.join()
    print(process.exitcode)
