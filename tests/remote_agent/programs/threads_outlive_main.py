import threading


def late():
    threading.main_thread().join()
    print("after main")


threading.Thread(target=late).start()
print(threading.current_thread().name, threading.active_count(), threading.main_thread().ident == threading.get_ident())
