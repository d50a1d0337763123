import multiprocessing


def work(value):
    value.value += 1


if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    value = context.Value("i", 1)
    process = context.Process(target=work, args=(value,))
    process.start()
    process.join()
    print(value.value, process.exitcode)
