def outer():
    inner(0)


def inner(divisor):
    try:
        1 / divisor
    except ZeroDivisionError as error:
        raise ValueError("was " + str(divisor)) from error


outer()
